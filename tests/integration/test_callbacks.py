"""Callbacks of jobs through the whole service: signed, retried, given up and sent again, over restarts too."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jobs import done, ended, submit
from service import Serve, Service, model, until
from unified import TEXT, refused

from engines.simulated.text import expected_answer
from tests.fakes.callback_receiver import HANG, OK, Came, Receiver, receiving, status

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = "a-key-of-alice"
FAST: dict[str, Any] = {"allow_private_addresses": True, "first_pause_seconds": 0.05, "longest_pause_seconds": 0.05}


@pytest.fixture
async def here() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


def url(here: Receiver, path: str = "/hook") -> str:
    return f"http://127.0.0.1:{here.port}{path}"


def assert_signed(came: Came, secret: str) -> None:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{came.id}.{came.headers['webhook-timestamp']}.".encode() + came.body
    expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert came.headers["webhook-signature"] == f"v1,{expected}"


async def callbacks(service: Service, state: str) -> list[dict[str, Any]]:
    return list((await service.admin("callbacks", state=state))["callbacks"])


async def test_the_end_of_a_job_is_told(serve: Serve, here: Receiver) -> None:
    """With its result, under the job's id, signed with the secret that lies in the state folder."""
    service = await serve(model("a"), callbacks=FAST)
    request_id = await submit(
        service, TEXT, prompt="say this", parameters={"max_tokens": 5}, callback_url=url(here, "/hook?job=7")
    )
    (came,) = await here.until(1)
    told = json.loads(came.body)
    assert (came.id, came.path) == (request_id, "/hook?job=7")
    assert (told["type"], told["data"]["request_id"]) == ("request.complete", request_id)
    assert told["data"]["result"]["text"] == expected_answer("say this", 5)
    assert_signed(came, (service.state_dir / "callback_secret").read_text().strip())
    assert (service.state_dir / "callback_secret").stat().st_mode & 0o777 == 0o600
    (listed,) = await until(lambda: callbacks(service, "delivered"))
    assert (listed["request_id"], listed["tries"], listed["last_status"]) == (request_id, 1, 200)


async def test_a_receiver_that_failed_gets_it_again(serve: Serve, here: Receiver) -> None:
    """A failed job is told too; tries go on until the receiver takes it, all under one id."""
    here.answers["/hook"] = [status(500), status(503), OK]
    service = await serve(model("a"), callbacks=FAST)
    request_id = await submit(service, TEXT, prompt="x", parameters={"max_tokens": -1}, callback_url=url(here))
    came = await here.until(3)
    assert [each.id for each in came] == [request_id] * 3
    assert json.loads(came[2].body)["type"] == "request.failed"


async def test_a_dead_letter_is_listed_and_sent_again(serve: Serve, here: Receiver) -> None:
    """410 gives it up at once; the order to send it again makes it due, and is refused once it was delivered."""
    here.answers["/hook"] = [status(410), OK]
    service = await serve(model("a"), callbacks=FAST)
    request_id = await submit(service, TEXT, prompt="x", callback_url=url(here))
    (dead,) = await until(lambda: callbacks(service, "dead"))
    assert (dead["request_id"], dead["url"], dead["last_status"]) == (request_id, url(here), 410)

    again = await service.http.post(f"/admin/callbacks/{request_id}/resend")
    assert (again.status_code, again.json()["state"]) == (200, "pending")
    first, second = await here.until(2)
    assert first.body == second.body

    await until(lambda: callbacks(service, "delivered"))
    assert await callbacks(service, "dead") == []
    assert (await service.http.post(f"/admin/callbacks/{request_id}/resend")).status_code == 409
    assert (await service.http.post("/admin/callbacks/nobody/resend")).status_code == 404
    wrong = await service.http.get("/admin/callbacks", params={"cursor": "x"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "cursor")


async def test_a_kill_between_end_and_delivery_delivers_again(serve: Serve, here: Receiver) -> None:
    """The receiver has taken the callback when the control plane dies; the next life sends it under the same id."""
    here.answers["/hook"] = [HANG, OK]
    service = await serve(model("a"), callbacks=FAST)
    request_id = await submit(service, TEXT, prompt="x", parameters={"max_tokens": 3}, callback_url=url(here))
    await here.until(1)
    await service.restart()
    first, second = await here.until(2)
    assert first.id == second.id == request_id
    assert first.body == second.body
    assert (await done(service, request_id))["text"] == expected_answer("x", 3)


async def test_each_client_has_its_secret(serve: Serve, here: Receiver, tmp_path: Path) -> None:
    """The callbacks of a key are signed with the secret of its name."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    (tmp_path / "secret").write_text(SECRET)
    service = await serve(
        model("a"),
        api_keys=[{"name": "alice", "key": {"sha256": digest}, "scopes": ["user", "admin"]}],
        callbacks={**FAST, "secrets": [{"name": "alice", "secret": {"file": str(tmp_path / "secret")}}]},
    )
    service.http.headers["authorization"] = f"Bearer {KEY}"
    await submit(service, TEXT, prompt="x", callback_url=url(here))
    (came,) = await here.until(1)
    assert_signed(came, SECRET)


async def test_addresses_inside_are_refused_at_the_door(serve: Serve) -> None:
    """Nothing is accepted, and the field is named."""
    service = await serve(model("a"))
    for host in ("127.0.0.1", "169.254.169.254", "[::1]:8000", "user:pw@a.test"):
        call = {"prompt": "x", "wait": False, "callback_url": f"http://{host}/hook"}
        assert (await refused(service, TEXT, json=call))["error"]["param"] == "callback_url"
    assert await service.journal() == []


async def test_a_name_that_means_this_machine_is_never_called(serve: Serve, here: Receiver) -> None:
    """What passes the door by its name is refused when it is called, each time, and the job is none the worse."""
    service = await serve(model("a"), callbacks={**FAST, "allow_private_addresses": False, "tries": 3})
    request_id = await submit(service, TEXT, prompt="x", callback_url=f"http://localhost:{here.port}/hook")
    assert (await ended(service, request_id))["status"] == "complete"
    (dead,) = await until(lambda: callbacks(service, "dead"))
    assert (dead["tries"], dead["last_status"]) == (3, None)
    assert "localhost is not a public address (callbacks.allow_private_addresses)" in dead["last_error"]
    assert here.came == []
