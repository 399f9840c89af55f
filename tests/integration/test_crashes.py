"""Engines that die, hang, lie or leave something behind: what the callers see, and that the next call succeeds."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from chats import ask, begin, later, raw_stream, streamed
from service import Serve, Service, model, until

SLOW = {"tokens_per_second": 20}


def fault(kind: str, **fields: Any) -> dict[str, Any]:
    return {"faults": [{"kind": kind, **fields}]}


async def _shot(service: Service, replica_id: str) -> Any:
    """SIGKILL the replica's main process; its view before."""
    view = await service.replica(replica_id)
    os.kill(service.pid(view), signal.SIGKILL)
    return view


async def test_a_stream_whose_engine_is_killed_ends_in_an_error_at_once(serve: Serve) -> None:
    """The SDK raises APIError, other models go on, the replica comes back unasked, and the next call is answered."""
    service = await serve(model("a", script=SLOW), model("b", script=SLOW))
    client = service.openai()
    doomed, other = await asyncio.gather(begin(client, "a", "one", 2000), begin(client, "b", "two", 40))

    before = await _shot(service, "a-0")
    async with asyncio.timeout(30):
        with pytest.raises(openai.APIError, match="engine failed while answering"):
            await doomed.rest()
    assert await other.rest()
    assert other.complete

    async def reborn() -> Any:
        view = await service.replica("a-0")
        return view if view["state"] == "ready" and view["generation"] > before["generation"] else None

    after = await until(reborn)
    assert after["handle"] != before["handle"]
    assert (await service.replica("b-0"))["generation"] == 1
    assert await ask(client, "a", "three")
    rows = {row["model_id"]: row for row in await service.journal(outcome="failed")}
    assert list(rows) == ["a"]
    assert rows["a"]["error_code"] == "engine_died"


async def test_a_whole_answer_whose_engine_is_killed_is_tried_again(serve: Serve) -> None:
    """Nothing was delivered, so the caller sees only the good answer; the journal tells of two attempts."""
    service = await serve(model("a", script=SLOW))
    client = service.openai()
    call = later(ask(client, "a", "again please", 20))
    await service.busy("a", running=1)
    await service.in_state("a-0", "ready")

    await _shot(service, "a-0")

    assert "please" in await call
    (row,) = await service.journal()
    assert (row["outcome"], row["attempts"]) == ("succeeded", 2)


async def test_a_crash_in_the_middle_of_an_answer_takes_the_callers_beside_it_alone(
    serve: Serve, tmp_path: Path
) -> None:
    """The engine kills itself at a token: every stream gets an error, whole answers come from its next life."""
    script = {**SLOW, **fault("crash", token=8, request=1, only_first_start=True)}
    service = await serve(model("a", script=script, args=["--state-dir", str(tmp_path)]))
    client = service.openai()
    streams = [await begin(client, "a", f"stream {n}", 200) for n in range(2)]
    whole = later(ask(client, "a", "whole", 30))

    for stream in streams:
        with pytest.raises(openai.APIError):
            await stream.rest()

    assert "whole" in await whole


async def test_an_aborted_generation_is_not_success(serve: Serve) -> None:
    """finish_reason abort becomes an error for whole answers and streams, and the journal says failed."""
    service = await serve(model("a", script=fault("abort", token=2)))
    client = service.openai()

    with pytest.raises(openai.InternalServerError) as whole:
        await ask(client, "a", "hello", 9)
    assert whole.value.status_code == 502
    with pytest.raises(openai.APIError):
        await streamed(client, "a", "hello", 9)

    rows = await service.journal()
    assert [(row["outcome"], row["error_code"]) for row in rows] == [("failed", "engine_aborted")] * 2


async def test_an_engine_that_ends_at_start_is_tried_three_times(serve: Serve) -> None:
    """Starts back off, then everybody who waits gets 503 with the reason and Retry-After; so does who comes next."""
    backoff = {"backoff_initial_seconds": 0.2, "backoff_max_seconds": 30}
    service = await serve(model("a", script=fault("exit", code=7)), scheduling=backoff)
    client = service.openai()

    refused = await asyncio.gather(*(ask(client, "a", "x") for _ in range(3)), return_exceptions=True)

    for error in refused:
        assert isinstance(error, openai.InternalServerError)
        assert error.status_code == 503
        assert error.code == "model_failed"
        assert "code 7" in error.message
        assert int(error.response.headers["retry-after"]) >= 1
    assert (await service.replica("a-0"))["failures"] == 3
    moves = [event for event in service.events() if event["event"] == "replica.moved" and event["state"] == "starting"]
    assert len(moves) == 3
    assert await service.stop() == 0


async def test_out_of_memory_at_start_is_told_in_the_engines_words(serve: Serve) -> None:
    """The 503 names the line of vLLM that says how much memory was free."""
    service = await serve(model("a", script=fault("out_of_memory")))

    with pytest.raises(openai.InternalServerError, match="Free memory on device") as refused:
        await ask(service.openai(), "a", "x")

    assert refused.value.status_code == 503


async def test_an_engine_that_hangs_is_replaced(serve: Serve, tmp_path: Path) -> None:
    """/health says 200 while nothing moves: after stall_seconds it is replaced, and the call it held is answered."""
    script = {**SLOW, **fault("hang", token=3, request=1, only_first_start=True)}
    hanging = model("a", script=script, args=["--state-dir", str(tmp_path)])
    service = await serve(hanging, scheduling={"stall_seconds": 1.5, "resync_seconds": 0.3})
    client = service.openai()

    assert "patient" in await ask(client, "a", "patient")

    (row,) = await service.journal()
    assert (row["outcome"], row["attempts"]) == ("succeeded", 2)
    events = (await service.admin("events"))["events"]
    assert any("nothing has moved" in json.dumps(event["detail"]) for event in events), events


@pytest.mark.parametrize(
    "stubborn",
    [
        pytest.param(fault("slow_free", seconds=60), id="ignores SIGTERM"),
        pytest.param(fault("left_child", memory_mib=20), id="leaves a child"),
        pytest.param(fault("left_child", memory_mib=20, new_session=True), id="leaves a child of another session"),
    ],
)
async def test_the_next_model_starts_only_after_every_process_is_gone(serve: Serve, stubborn: dict[str, Any]) -> None:
    """Whatever holds the memory is killed, and no process of the next model begins while one of the last lives."""
    first = model("a", mib=600, script={**stubborn, "memory_mib": 30}, parameters={"stop_grace_seconds": 0.5})
    service = await serve(first, model("b", mib=600, script={"memory_mib": 30}))
    client = service.openai()
    await ask(client, "a", "x")
    assert service.engines("a-0")

    call = later(ask(client, "b", "swap"))
    await until(lambda: service.engines("b-0"))
    left = service.engines("a-0")

    assert not left
    assert "swap" in await call
    assert (await service.replica("a-0"))["state"] == "stopped"


async def test_a_client_that_leaves_while_its_answer_runs_frees_the_slot(serve: Serve) -> None:
    """With one slot, the next in line runs when the first one leaves, not after its 2000 tokens of 100 seconds."""
    service = await serve(model("a", slots=1, script=SLOW))
    client = service.openai()
    first = await begin(client, "a", "long", 2000)
    second = later(ask(client, "a", "short", 2))
    await service.busy("a", waiting=1)

    await first.leave()
    left_at = time.monotonic()

    assert "short" in await second
    assert time.monotonic() - left_at < 30
    assert {row["outcome"] for row in await service.journal()} == {"cancelled", "succeeded"}


async def test_a_client_that_leaves_while_queued_frees_its_place(serve: Serve) -> None:
    """Behind a busy slot and during the load alike: the line is empty again, and the row says cancelled."""
    service = await serve(model("a", slots=1, script={"load_seconds": 2, **SLOW}))
    client = service.openai()
    async with raw_stream(service.http, "a") as early:
        assert "position 1 of 1" in await early.comment()
        assert (await service.replica("a-0"))["state"] == "starting"
    await service.busy("a", waiting=0)
    gone = await service.request(early.request_id)
    assert (gone["outcome"], gone["attempts"]) == ("cancelled", 0)

    running = await begin(client, "a", "long", 2000)
    queued = later(ask(client, "a", "never"))
    await service.busy("a", running=1, waiting=1)
    queued.cancel()

    await service.busy("a", running=1, waiting=0)
    await running.leave()
    await service.busy("a", running=0, waiting=0)
