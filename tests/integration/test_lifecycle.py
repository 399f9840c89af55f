"""A replica's life by the clock and by order: idle time, preload, load and unload, and the end of the service."""

import asyncio
import signal
import time

import openai
import pytest
from chats import ask, begin, later
from service import Serve, model, until

SLOW = {"tokens_per_second": 20}


async def test_a_request_starts_the_model_and_nothing_is_left_after_the_end(serve: Serve) -> None:
    """The first call loads the model and is answered; SIGTERM ends everything with exit status 0."""
    service = await serve(model("a"))
    assert not service.engines()

    assert "hello" in await ask(service.openai(), "a", "hello")

    assert (await service.in_state("a-0", "ready"))["reserved_mib"] == 64
    assert await service.stop() == 0
    service.assert_nothing_left()


async def test_an_idle_model_is_unloaded(serve: Serve) -> None:
    """After its idle time, counted from its last answer and not while one runs; the next call loads it again."""
    service = await serve(model("a", script=SLOW, idle_timeout_seconds=1), model("b"))
    client = service.openai()
    await ask(client, "b", "x")
    long = await begin(client, "a", "long", 40)

    await long.rest()

    assert long.complete
    await service.in_state("a-0", "stopped")
    assert not service.engines("a-0")
    assert (await service.replica("b-0"))["state"] == "ready"
    assert await ask(client, "a", "again")
    assert (await service.replica("a-0"))["generation"] == 2


async def test_min_replicas_loads_without_a_request_and_keeps_it(serve: Serve) -> None:
    """It is there after the start, refuses to be unloaded, and comes back after a kill."""
    service = await serve(model("a", min_replicas=1), model("b"))

    view = await service.in_state("a-0", "ready")
    refused = await service.order("a", "unload")
    assert refused.status_code == 409
    assert "min_replicas" in refused.json()["error"]["message"]
    for process in service.engines("a-0"):
        process.kill()

    async def reborn() -> bool:
        found = await service.replica("a-0")
        return bool(found["state"] == "ready" and found["generation"] > view["generation"])

    await until(reborn)
    assert not service.engines("b-0")


async def test_load_and_unload_by_order(serve: Serve) -> None:
    """Load gets it ready without a request; unload lets a running answer end first, and a pin refuses it."""
    service = await serve(model("a", script=SLOW))
    assert (await service.order("a", "load")).status_code == 200
    await service.in_state("a-0", "ready")
    await service.order("a", "pin")
    assert (await service.order("a", "unload")).status_code == 409
    await service.order("a", "unpin")
    stream = await begin(service.openai(), "a", "finish me", 40)

    assert (await service.order("a", "unload")).status_code == 200
    await stream.rest()

    assert stream.complete
    await service.in_state("a-0", "stopped")
    assert not service.engines()
    assert (await service.order("nobody", "load")).status_code == 404


async def test_an_orderly_end_finishes_what_runs_and_sends_the_waiting_away(serve: Serve) -> None:
    """SIGTERM: the stream under way comes whole, who waits gets 503 to come back, and nothing is left."""
    service = await serve(model("a", slots=1, script=SLOW))
    client = service.openai()
    running = await begin(client, "a", "to the end", 40)
    waiting = later(ask(client, "a", "x"))
    await service.busy("a", running=1, waiting=1)
    assert service.process is not None

    service.process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.InternalServerError) as sent_away:
        await waiting
    await running.rest()

    assert (sent_away.value.status_code, sent_away.value.code) == (503, "service_stopping")
    assert int(sent_away.value.response.headers["retry-after"]) >= 1
    assert running.complete
    assert await service.ended() == 0
    service.assert_nothing_left()


async def test_an_end_during_a_load_does_not_wait_for_it(serve: Serve) -> None:
    """The caller gets 503 and the engine that loads is stopped long before its 60 seconds are over."""
    service = await serve(model("a", script={"load_seconds": 60}))
    call = later(ask(service.openai(), "a", "x"))
    await until(lambda: service.engines("a-0"))
    assert service.process is not None
    asked_at = time.monotonic()

    service.process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIStatusError) as sent_away:
        await call

    assert sent_away.value.status_code == 503
    assert await service.ended() == 0
    assert time.monotonic() - asked_at < 30
    service.assert_nothing_left()


async def test_a_second_signal_ends_at_once_and_leaves_the_engines_to_the_next_life(serve: Serve) -> None:
    """Insisting cuts the running answer; the next life adopts the engine."""
    service = await serve(model("a", script=SLOW))
    cut = await begin(service.openai(), "a", "cut", 4000)
    before = await service.in_state("a-0", "ready")
    await service.kept("a-0", "ready")
    assert service.process is not None

    service.process.send_signal(signal.SIGTERM)
    await service.logged("stopping", at_once=False)
    first_at = time.monotonic()
    # Two signals within a second are taken for one wish.
    await until(lambda: time.monotonic() - first_at > 1.2)
    service.process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIError):
        await cut.rest()
    await service.ended()
    await service.hang_up()
    await service.start()

    after = await service.replica("a-0")
    assert (after["handle"], after["generation"]) == (before["handle"], before["generation"])


async def test_starts_on_one_device_are_done_one_at_a_time(serve: Serve) -> None:
    """Two models asked for at once: never are both starting, and both are answered."""
    script = {"load_seconds": 1}
    service = await serve(model("a", script=script), model("b", script=script))
    client = service.openai()
    calls = asyncio.gather(ask(client, "a", "x"), ask(client, "b", "x"))
    together = 0
    while not calls.done():
        replicas = (await service.admin("replicas"))["replicas"]
        together = max(together, sum(replica["state"] == "starting" for replica in replicas))

    assert all(await calls)
    assert together == 1
