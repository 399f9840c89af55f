"""Idempotency-Key through the whole service: one piece of work and one answer per key, for calls and for jobs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from chats import later
from jobs import done
from service import Serve, Service, model, until
from unified import PROCESS, TEXT
from uploads import png

from engines.simulated.text import expected_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    service = Service(tmp_path_factory.mktemp("keys"))
    service.write(
        model("a"),
        model("slow", script={"tokens_per_second": 40}),
        model("change", model_type="image_processing"),
    )
    await service.start()
    yield service
    await service.end()


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


async def chat(service: Service, key: str, prompt: str, name: str = "a", tokens: int = 5) -> Any:
    """(id of the request, whether it was a replay, text)"""
    raw = await service.openai().chat.completions.with_raw_response.create(
        model=name,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=tokens,
        extra_headers=keyed(key),
    )
    replayed = raw.headers.get("idempotency-replayed") == "true"
    return raw.headers["x-request-id"], replayed, raw.parse().choices[0].message.content


async def calls_of(service: Service, name: str) -> int:
    return len(await service.journal(model=name))


async def test_a_chat_is_done_once(service: Service) -> None:
    """The second call is answered with the first's answer; another prompt under its key is 422."""
    before = await calls_of(service, "a")
    first, second = await chat(service, "chat-1", "hello"), await chat(service, "chat-1", "hello")
    assert first == (first[0], False, expected_answer("hello", 5))
    assert second == (first[0], True, first[2])
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        await chat(service, "chat-1", "bye")
    assert refused.value.code == "idempotency_key_reused"
    assert await calls_of(service, "a") == before + 1


async def test_retries_while_it_runs_wait_for_it(service: Service) -> None:
    """Five calls at once, one of them cut off: one piece of work, one answer for all that stayed."""
    before = await calls_of(service, "slow")
    first = later(chat(service, "chat-2", "hello", "slow", 30))
    await until(lambda: _more_than(service, "slow", before))
    others = [later(chat(service, "chat-2", "hello", "slow", 30)) for _ in range(4)]
    first.cancel()
    answers = await asyncio.gather(*others)
    assert {answer[2] for answer in answers} == {expected_answer("hello", 30)}
    assert len({answer[0] for answer in answers}) == 1
    assert await calls_of(service, "slow") == before + 1


async def test_a_stream_is_replayed_as_it_was(service: Service) -> None:
    """Byte for byte, also for who comes while it runs."""
    body = {"model": "slow", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, "stream": True}

    async def stream() -> bytes:
        answer = await service.http.post("/v1/chat/completions", json=body, headers=keyed("stream-1"))
        assert answer.status_code == 200
        return answer.content

    before = await calls_of(service, "slow")
    first = later(stream())
    await until(lambda: _more_than(service, "slow", before))
    second = await stream()
    assert await first == second == await stream()
    assert second.endswith(b"data: [DONE]\n\n")


async def test_what_was_refused_at_the_door_leaves_the_key_free(service: Service) -> None:
    """A mistake is not work: the corrected call may have the same key."""
    with pytest.raises(openai.NotFoundError):
        await chat(service, "chat-3", "hello", "nobody")
    assert (await chat(service, "chat-3", "hello"))[1] is False


async def test_a_job_is_accepted_once(service: Service) -> None:
    """Ten submissions at once with one key are one job; other work under it is 422, with the common names."""
    call = {"prompt": "once", "wait": False, "parameters": {"max_tokens": 5}}
    answers = await asyncio.gather(*(service.http.post(TEXT, json=call, headers=keyed("job-1")) for _ in range(10)))
    assert [answer.status_code for answer in answers] == [202] * 10
    (request_id,) = {answer.json()["request_id"] for answer in answers}
    assert (await done(service, request_id))["text"] == expected_answer("once", 5)
    other = await service.http.post(TEXT, json={**call, "prompt": "twice"}, headers=keyed("job-1"))
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert other.json()["status"] == "failed"


async def test_a_form_may_be_sent_again(service: Service) -> None:
    """Its boundary differs each time, its picture does not."""

    async def send(content: bytes) -> Any:
        return await service.http.post(
            PROCESS,
            files={"file": ("a.png", content, "image/png")},
            data={"operation": "flip"},
            headers=keyed("form-1"),
        )

    first, second, third = await send(png((8, 4))), await send(png((8, 4))), await send(png((9, 4)))
    assert [each.status_code for each in (first, second, third)] == [200, 200, 422]
    assert first.json() == second.json()


@pytest.mark.asyncio(loop_scope="function")
async def test_keys_outlive_a_kill(serve: Serve) -> None:
    """What was answered is replayed by the next life; what was cut off is done by it, under the same key."""
    service = await serve(model("a"), model("slow", script={"tokens_per_second": 20}))
    answered = await chat(service, "answered", "hello")
    cut = later(chat(service, "cut", "hello", "slow", 100))
    await service.busy("slow", running=1)
    job = {"prompt": "later", "wait": False, "model": "slow", "parameters": {"max_tokens": 40}}
    accepted = await service.http.post(TEXT, json=job, headers=keyed("job"))
    await service.kill()
    with pytest.raises(openai.APIConnectionError):
        await cut
    await service.start()

    assert await chat(service, "answered", "hello") == (answered[0], True, answered[2])
    assert await chat(service, "cut", "hello", "slow", 100) == (
        (await service.journal(model="slow"))[0]["request_id"],
        False,
        expected_answer("hello", 100),
    )
    again = await service.http.post(TEXT, json=job, headers=keyed("job"))
    assert again.json()["request_id"] == accepted.json()["request_id"]
    assert (await done(service, again.json()["request_id"]))["text"] == expected_answer("later", 40)


@pytest.mark.asyncio(loop_scope="function")
async def test_a_job_whose_answer_was_lost_is_found_by_its_key(serve: Serve) -> None:
    """SIGKILL at moments around the acceptance: however often it is sent again, there is one job."""
    service = await serve(model("a"))
    for n in range(2):
        call = {"prompt": f"job {n}", "wait": False, "parameters": {"max_tokens": 3}}
        sending = [later(service.http.post(TEXT, json=call, headers=keyed(f"k{n}"))) for _ in range(3)]
        await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
        await service.kill()
        await asyncio.wait(sending)
        ids = {each.result().json()["request_id"] for each in sending if each.exception() is None}
        await service.start()
        again = await service.http.post(TEXT, json=call, headers=keyed(f"k{n}"))
        assert ids | {again.json()["request_id"]} == {again.json()["request_id"]}
        assert (await done(service, again.json()["request_id"]))["text"] == expected_answer(f"job {n}", 3)
    await until(lambda: _jobs(service, 2))


async def _more_than(service: Service, name: str, count: int) -> bool:
    return await calls_of(service, name) > count


async def _jobs(service: Service, count: int) -> bool:
    jobs = [row for row in await service.journal() if row["mode"] == "async"]
    assert len(jobs) <= count
    return len(jobs) == count
