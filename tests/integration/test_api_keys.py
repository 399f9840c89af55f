"""Keys, scopes and web pages: who may call, what a refusal says, and what nobody ever gets to see."""

import asyncio
import json
import os
import secrets
import subprocess
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from chats import ask
from service import INFERCTL, Service, model

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
CALL = {"model": "a", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
USER, ADMIN, STRANGER = (f"sk-{secrets.token_hex(16)}" for _ in range(3))
PAGE = "https://app.example"


def _key(name: str, key: str, *scopes: str) -> dict[str, Any]:
    return {"name": name, "key": {"sha256": sha256(key.encode()).hexdigest()}, "scopes": scopes}


class Guarded(Service):
    """A service with keys, whose own client is the administrator."""

    def write(self, *models: dict[str, Any], **keys: Any) -> None:
        super().write(*models, **keys)
        config = json.loads(self.config.read_text())
        config["api_keys"] = [_key("app", USER, "user"), _key("owner", ADMIN, "user", "admin")]
        self.config.write_text(json.dumps(config))

    async def start(self) -> None:
        await super().start()
        self.http.headers["authorization"] = f"Bearer {ADMIN}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    service = Guarded(tmp_path_factory.mktemp("guarded"))
    service.write(model("a"), model("draw", model_type="text2image"), server={"cors_origins": [PAGE]})
    await service.start()
    yield service
    await service.end()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyless(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    service = Service(tmp_path_factory.mktemp("keyless"))
    service.write(model("a"), server={"cors_origins": [PAGE]})
    await service.start()
    yield service
    await service.end()


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _refusal(answer: httpx.Response, status: int, code: str) -> str:
    """The message of an error in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    return str(error["message"])


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="none"),
        pytest.param("Bearer", id="no key"),
        pytest.param(f"Basic {USER}", id="another scheme"),
        pytest.param(USER, id="no scheme"),
        pytest.param(f"Bearer {STRANGER}", id="an unknown key"),
        pytest.param(f"Bearer {sha256(USER.encode()).hexdigest()}", id="the hash of a key"),
        pytest.param(f"Bearer {USER}x", id="a key and more"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/admin/models"), ("GET", "/metrics")]
)
async def test_without_a_known_key_nothing_is_answered(guarded: Service, method: str, path: str, header: str) -> None:
    """401 in OpenAI's shape on every path, and the key is not repeated."""
    body = CALL if method == "POST" else None

    answer = await guarded.http.request(method, path, headers={"authorization": header}, json=body)

    _refusal(answer, 401, "invalid_api_key")
    for secret in (USER, STRANGER):
        assert secret not in answer.text + str(answer.headers)


async def test_the_sdk_raises_for_a_wrong_key(guarded: Service) -> None:
    """AuthenticationError with the wrong key, an answer with the right one; the journal names the caller."""
    with pytest.raises(openai.AuthenticationError, match="not known"):
        await ask(guarded.openai(api_key=STRANGER), "a", "hello")

    assert "hello" in await ask(guarded.openai(api_key=USER), "a", "hello")

    assert (await guarded.journal())[0]["client"] == "app"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/models"),
        ("GET", "/admin/requests"),
        ("POST", "/admin/models/a/load"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
    ],
)
async def test_a_users_key_does_not_administer(guarded: Service, method: str, path: str) -> None:
    """403 naming the scope for the user's key; the administrator's passes."""
    message = _refusal(await guarded.http.request(method, path, headers=_bearer(USER)), 403, "forbidden")

    assert "'admin' scope" in message
    assert (await guarded.http.request(method, path, headers=_bearer(ADMIN))).status_code == 200


async def test_a_key_sees_its_own_requests(guarded: Service) -> None:
    """A job is shown, ended and listed for the key it came with and for the administrator, and for nobody else."""
    body = {"prompt": "x", "wait_seconds": 30, "parameters": {"max_tokens": 1}}
    ids = {}
    for key in (USER, ADMIN):
        call = await guarded.http.post("/api/v1/text-to-text", json=body, headers={"authorization": f"Bearer {key}"})
        ids[key] = call.json()["request_id"]
    mine = {"authorization": f"Bearer {USER}"}
    wheres = {key: f"/api/v1/requests/{request_id}" for key, request_id in ids.items()}

    assert (await guarded.http.get(f"{wheres[USER]}/result", headers=mine)).status_code == 200
    for path in ("", "/result", "/events"):
        assert (await guarded.http.get(wheres[ADMIN] + path, headers=mine)).status_code == 404
        assert (await guarded.http.get(wheres[USER] + path)).status_code == 200
    assert (await guarded.http.delete(wheres[ADMIN], headers=mine)).status_code == 404
    listed = (await guarded.http.get("/api/v1/requests", headers=mine)).json()["requests"]
    assert ids[USER] in {row["request_id"] for row in listed}
    assert ids[ADMIN] not in {row["request_id"] for row in listed}


async def test_health_needs_no_key(guarded: Service) -> None:
    """Whoever supervises the service asks /health and /ready without a secret."""
    for path in ("/health", "/ready"):
        assert (await guarded.http.get(path, headers={"authorization": ""})).status_code == 200


async def test_no_key_is_ever_written_down(guarded: Service) -> None:
    """After good, refused and broken calls neither the log, the journal nor the database holds a key."""
    for key in (USER, ADMIN, STRANGER):
        await guarded.http.post(CHAT, json=CALL, headers=_bearer(key))
        await guarded.http.post(CHAT, content=b"{", headers=_bearer(key))
        await guarded.http.get("/nothing", headers=_bearer(key))
    await guarded.journal()

    written = [path for path in guarded.folder.rglob("*") if path.is_file()]
    assert guarded.log_path in written
    for path in written:
        content = path.read_bytes()
        for key in (USER, ADMIN, STRANGER):
            assert key.encode() not in content, path


async def test_an_allowed_page_may_read_every_answer(guarded: Service) -> None:
    """Preflight without a key, then answers and errors of engine calls and admin calls name the origin."""
    asked = {"origin": PAGE, "access-control-request-method": "POST"}
    asked |= {"access-control-request-headers": "authorization,x-priority", "authorization": ""}

    preflight = await guarded.http.options(CHAT, headers=asked)

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert "x-priority" in preflight.headers["access-control-allow-headers"].lower()
    page = {"origin": PAGE, **_bearer(USER)}
    for answer in (
        await guarded.http.post(CHAT, json=CALL, headers=page),
        await guarded.http.post(CHAT, json={**CALL, "stream": True}, headers=page),
        await guarded.http.post(CHAT, json={"model": "none"}, headers=page),
        await guarded.http.get("/v1/models", headers=page),
        await guarded.http.get("/admin/models", headers=page),
    ):
        assert answer.headers["access-control-allow-origin"] == PAGE, answer.text
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_another_page_gets_no_leave(guarded: Service) -> None:
    """Its preflight is refused, and answers do not name it, so that a browser withholds them."""
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}

    preflight = await guarded.http.options(CHAT, headers=asked)
    answer = await guarded.http.post(CHAT, json=CALL, headers={"origin": "https://evil.example", **_bearer(USER)})

    assert preflight.status_code == 400
    assert "access-control-allow-origin" not in preflight.headers
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"origin": "https://evil.example"}, id="a page from elsewhere"),
        pytest.param({"origin": "null"}, id="a page without origin"),
        pytest.param({"origin": "http://127.0.0.1.evil.example"}, id="a name that looks like loopback"),
        pytest.param({"host": "evil.example"}, id="a rebound name"),
        pytest.param({"host": "localhost.evil.example:8000"}, id="a rebound name that looks like loopback"),
        pytest.param({"host": "[::1"}, id="a broken host"),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("POST", "/admin/models/a/pin"), ("GET", "/v1/models")])
async def test_a_keyless_loopback_refuses_web_pages(
    keyless: Service, method: str, path: str, headers: dict[str, str]
) -> None:
    """403 before anything happens, for calls and orders alike."""
    answer = await keyless.http.request(method, path, headers=headers, json=CALL if method == "POST" else None)

    _refusal(answer, 403, "forbidden")
    assert not (await keyless.model("a"))["pinned"]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="a program"),
        pytest.param({"origin": PAGE}, id="an allowed page"),
        pytest.param({"origin": "http://localhost:3000"}, id="a page of this machine"),
        pytest.param({"host": "localhost:8000"}, id="localhost"),
        pytest.param({"host": "[::1]:8000"}, id="IPv6 loopback"),
        pytest.param({"authorization": f"Bearer {STRANGER}"}, id="a key nobody asked for"),
    ],
)
async def test_a_keyless_loopback_serves_this_machine(keyless: Service, headers: dict[str, str]) -> None:
    """Programs and pages of this machine need no key."""
    assert (await keyless.http.post(CHAT, json=CALL, headers=headers)).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
async def test_others_are_let_in_only_with_a_key(tmp_path: Path, host: str) -> None:
    """Without a key the service refuses to start on an address beyond loopback: exit 2, naming the remedy."""
    service = Service(tmp_path)
    service.write(model("a"))
    command = [INFERCTL, "serve", "--config", service.config, "--host", host, "--port", "0"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("INFERCTL_")}

    ended = await asyncio.to_thread(
        lambda: subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environ)
    )

    assert ended.returncode == 2
    assert "api_keys" in ended.stderr
    service.assert_nothing_left()


async def test_artifacts_need_a_key_as_the_calls_that_made_them_do(guarded: Service) -> None:
    """A picture's address alone opens nothing: 401 without a key, for the unified API too."""
    client = guarded.openai(api_key=USER)
    answer = await client.images.generate(prompt="closed", response_format="url")
    url = (answer.data or [])[0].url or ""

    async with httpx.AsyncClient() as anybody:
        assert (await anybody.get(url)).status_code == 401
        assert (await anybody.get(url, headers={"authorization": f"Bearer {USER}"})).status_code == 200
        refused = await anybody.post(f"{guarded.base_url}/api/v1/text-to-image", json={"prompt": "x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
