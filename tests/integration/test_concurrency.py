"""Many callers at once: none lost, none mixed up, served by priority, bounded in line and in time."""

import asyncio
import contextlib
from typing import Any

import openai
import pytest
from chats import ask, begin, later, raw_stream
from service import Serve, Service, model, until

SLOW = {"tokens_per_second": 20}
CLIENTS = 200
TOKENS = 6


async def test_two_hundred_streams_reach_their_own_callers(serve: Serve) -> None:
    """More callers than slots over four models: each gets every token of its own answer, all are journalled."""
    names = ["a", "b", "c", "d"]
    service = await serve(*(model(name, slots=8, script={"tokens_per_second": 100}) for name in names))
    client = service.openai(timeout=120)

    async def call(n: int) -> bool:
        stream = await begin(client, names[n % len(names)], f"question {n} mark{n}", TOKENS)
        await stream.rest()
        return stream.complete and f"mark{n} " in stream.text

    results = await asyncio.gather(*(call(n) for n in range(CLIENTS)))

    assert results == [True] * CLIENTS
    rows = await service.journal()
    assert len({row["request_id"] for row in rows}) == CLIENTS
    assert {(row["outcome"], row["http_status"], row["attempts"]) for row in rows} == {("succeeded", 200, 1)}
    assert {row["completion_tokens"] for row in rows} <= {TOKENS, None}
    for name in names:
        await service.busy(name, running=0, waiting=0)


async def test_those_who_wait_together_are_served_by_priority(serve: Serve) -> None:
    """By X-Priority and by service_tier; among equals first come, first served."""
    service = await serve(model("a", slots=1, script=SLOW), scheduling={"ageing_seconds_per_point": 1000})
    client = service.openai()
    blocker = await begin(client, "a", "block", 2000)
    calls = []
    for place, priority in enumerate([10, 90, 50, 90, 0, 100, 50], start=1):
        calls.append(later(ask(client, "a", f"p{priority}", 1, **{"X-Priority": str(priority)})))
        await service.busy("a", waiting=place)
    calls.append(later(_with_tier(client, "priority")))
    await service.busy("a", waiting=len(calls))

    await blocker.leave()
    await asyncio.gather(*calls)

    rows = [row for row in await service.journal() if row["outcome"] == "succeeded"]
    assert len({row["priority"] for row in rows}) >= 5
    served = [(row["priority"], row["created_at"]) for row in sorted(rows, key=lambda row: row["started_at"])]
    assert served == sorted(served, key=lambda one: (-one[0], one[1]))


async def _with_tier(client: openai.AsyncOpenAI, tier: Any) -> None:
    message: Any = {"role": "user", "content": "tier"}
    await client.chat.completions.create(model="a", messages=[message], max_tokens=1, service_tier=tier)


async def test_every_waiting_call_has_exactly_one_reason(serve: Serve) -> None:
    """The journal, explain by request, explain by model and the stream's comments tell the same sentence."""
    service = await serve(
        model("a", mib=600, slots=1, script=SLOW), model("b", mib=600, script={"load_seconds": 30}), model("c", mib=900)
    )
    client = service.openai()
    running = await begin(client, "a", "block", 2000)
    await until(lambda: _processing(service))
    for name in ("a", "b", "c"):
        assert (await service.order(name, "pin")).status_code == 200
    queued = [later(ask(client, name, "x")) for name in ("a", "a", "b", "c")]
    await until(lambda: _waiting(service, 4))

    waiting = [row for row in await service.journal() if row["status"] == "pending"]
    explained = [await service.admin("explain", request_id=row["request_id"]) for row in waiting]

    kinds = {"a": "slot", "b": "no_room", "c": "no_room"}
    for row, found in zip(waiting, explained, strict=True):
        assert found["reason"] == kinds[row["model_id"]], found
        assert found["sentence"].split(";")[0] == row["reason"].split(";")[0]
        assert f"position {found['position']} of {found['waiting']}" in row["reason"]
        of_model = await service.admin("explain", model=row["model_id"])
        assert of_model["reason"] == found["reason"]
    assert sorted(f["position"] for f in explained if f["model_id"] == "a") == [1, 2]
    assert any("a-0" in blocker for f in explained if f["model_id"] == "b" for blocker in f["numbers"]["blockers"])
    for call in queued:
        call.cancel()
    await running.leave()
    await until(lambda: _waiting(service, 0))


async def _processing(service: Service) -> bool:
    return [row["status"] for row in await service.journal()] == ["processing"]


async def _waiting(service: Service, count: int) -> bool:
    return sum(each["waiting"] for each in (await service.admin("models"))["models"]) == count


async def test_a_waiting_stream_is_told_position_reason_and_expectation(serve: Serve) -> None:
    """Comments come while the model loads and while its slots are busy; then the answer follows."""
    service = await serve(model("a", slots=1, script={"load_seconds": 2.5, **SLOW}, loading_time_sec=2))

    async with raw_stream(service.http, "a", tokens=80) as first:
        loading = await first.comment()
        assert first.request_id in loading
        assert "position 1 of 1" in loading
        assert "a-0 is starting" in loading
        assert "to go" in loading
        async with raw_stream(service.http, "a") as second:
            await service.busy("a", running=1, waiting=1)
            comment = ""
            while "busy" not in comment:
                comment = await second.comment()
            assert "all slots of a-0 are busy (1 of 1), first in line" in comment


async def test_a_deadline_ends_the_wait_with_the_reason(serve: Serve) -> None:
    """503 deadline_exceeded for a whole answer; an error event once comments have begun; the journal says expired."""
    service = await serve(model("a", slots=1, script=SLOW))
    client = service.openai()
    blocker = await begin(client, "a", "block", 2000)

    with pytest.raises(openai.InternalServerError, match="all slots of a-0 are busy") as late:
        await ask(client, "a", "x", **{"X-Deadline-Seconds": "0.3"})
    assert (late.value.status_code, late.value.code) == (503, "deadline_exceeded")
    assert int(late.value.response.headers["retry-after"]) >= 1
    async with raw_stream(service.http, "a", **{"X-Deadline-Seconds": "1.5"}) as stream:
        assert "busy" in await stream.comment()
        error = await stream.error()
    assert error["code"] == "deadline_exceeded"
    assert "all slots of a-0 are busy" in error["message"]

    await blocker.leave()
    await service.busy("a", running=0, waiting=0)
    outcomes = [row["outcome"] for row in await service.journal()]
    assert outcomes == ["expired", "expired", "cancelled"]


async def test_a_full_line_refuses_with_retry_after(serve: Serve) -> None:
    """429 for who comes too late, in line and per model; those in line are not disturbed."""
    limits = {"queue_limit": 3, "queue_limit_per_model": 2}
    service = await serve(model("a", slots=1, script=SLOW), model("b", script={"load_seconds": 20}), scheduling=limits)
    client = service.openai()
    blocker = await begin(client, "a", "block", 2000)
    queued = [later(ask(client, "a", "x")) for _ in range(2)]
    await service.busy("a", waiting=2)

    with pytest.raises(openai.RateLimitError) as per_model:
        await ask(client, "a", "too many")
    other = later(ask(client, "b", "x"))
    await service.busy("b", waiting=1)
    with pytest.raises(openai.RateLimitError) as in_all:
        await ask(client, "b", "too many")

    for refused in (per_model.value, in_all.value):
        assert refused.code == "queue_full"
        assert int(refused.response.headers["retry-after"]) >= 1
    await blocker.leave()
    assert all(await asyncio.gather(*queued))
    other.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await other
