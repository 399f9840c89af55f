"""SIGKILL of the control plane, and what its next life finds: engines, rows, requests; never a leak."""

import asyncio
import random

import openai
import pytest
from chats import ask, begin, later, streamed
from service import Serve, Service, model, until

SLOW = {"tokens_per_second": 20}


async def test_the_same_engine_serves_again_without_a_reload(serve: Serve) -> None:
    """It is adopted without reload, and the journal shows the stream that was cut as interrupted."""
    service = await serve(model("a", script={"load_seconds": 3, **SLOW}))
    stream = await begin(service.openai(), "a", "cut", 2000)
    cut = later(stream.rest())
    before = await service.in_state("a-0", "ready")
    await until(lambda: _status(service), what="the running request in the journal")

    await service.kill()
    with pytest.raises(openai.APIError):
        await cut
    await service.start()
    answer = await ask(service.openai(), "a", "again")

    assert "again" in answer
    after = await service.replica("a-0")
    assert (after["handle"], after["generation"]) == (before["handle"], before["generation"])
    assert len(service.engines()) == 1
    row = (await service.journal())[-1]
    assert (row["status"], row["outcome"]) == ("failed", "interrupted")


async def _status(service: Service) -> bool:
    return [row["status"] for row in await service.journal()] == ["processing"]


async def test_a_load_that_was_under_way_ends_once(serve: Serve) -> None:
    """The engine that was loading at the SIGKILL is waited for, not started again."""
    service = await serve(model("a", script={"load_seconds": 3}))
    call = later(ask(service.openai(), "a", "x"))
    (engine,) = await until(lambda: service.engines("a-0"))
    loading = await service.replica("a-0")
    assert loading["state"] == "starting"

    await service.restart()
    with pytest.raises(openai.APIError):
        await call

    assert "later" in await ask(service.openai(), "a", "later")
    view = await service.replica("a-0")
    assert (service.pid(view), view["generation"]) == (engine.pid, loading["generation"])


async def test_a_swap_that_was_under_way_ends_in_order(serve: Serve) -> None:
    """Killed while the old model is slow to free: the next life still proves it gone before the new one starts."""
    slow_free = {"faults": [{"kind": "slow_free", "seconds": 3}], "memory_mib": 30}
    first = model("a", mib=600, script=slow_free, parameters={"stop_grace_seconds": 10})
    service = await serve(first, model("b", mib=600, script={"memory_mib": 30}))
    await ask(service.openai(), "a", "x")
    call = later(ask(service.openai(), "b", "x"))
    await service.in_state("a-0", "stopping")

    await service.restart()
    with pytest.raises(openai.APIError):
        await call
    assert (await service.admin("devices"))["devices"][0]["booked_mib"] == 600
    again = later(ask(service.openai(), "b", "swapped"))
    await until(lambda: service.engines("b-0"))

    assert not service.engines("a-0")
    assert "swapped" in await again


async def test_a_replica_of_a_changed_model_is_replaced(serve: Serve) -> None:
    """Its row and process are of the old configuration: stopped, and started anew when asked for."""
    service = await serve(model("a", script=SLOW))
    await ask(service.openai(), "a", "x")
    before = await service.replica("a-0")

    await service.kill()
    service.write(model("a", script={"tokens_per_second": 30}))
    await service.start()

    assert "new" in await ask(service.openai(), "a", "new")
    after = await service.replica("a-0")
    assert after["generation"] == before["generation"] + 1
    assert len(service.engines()) == 1


async def test_a_replica_of_a_removed_model_is_stopped(serve: Serve) -> None:
    """Nobody can ask for it any more: its process ends, and its row goes with the next life."""
    service = await serve(model("a"), model("b"))
    await ask(service.openai(), "a", "x")

    await service.kill()
    service.write(model("b"))
    await service.start()

    await until(lambda: not service.engines("a-0"))
    await service.in_state("a-0", "stopped")
    await service.restart()
    assert await service.replica("a-0") == {}


async def test_a_process_without_a_row_is_removed(serve: Serve) -> None:
    """The store is lost between two lives: what runs is an orphan, and the model starts from nothing."""
    service = await serve(model("a"))
    await ask(service.openai(), "a", "x")
    (orphan,) = service.engines()

    await service.kill()
    for path in service.state_dir.glob("store.sqlite*"):
        path.unlink()
    await service.start()

    assert orphan not in service.engines()
    assert await service.logged("replica.orphan_removed", replica="a-0")
    assert await ask(service.openai(), "a", "x")
    assert (await service.replica("a-0"))["generation"] == 1


async def test_an_engine_that_died_in_between_is_started_again(serve: Serve) -> None:
    """It served when the control plane was killed and is gone at the restart: it comes back without a request."""
    service = await serve(model("a"))
    await ask(service.openai(), "a", "x")
    await service.kept("a-0", "ready")

    await service.kill()
    for process in service.engines():
        process.kill()
    await service.start()

    assert (await service.in_state("a-0", "ready"))["generation"] == 2


async def test_a_pin_survives_the_control_plane(serve: Serve) -> None:
    """A pin by the API is a wish of the owner's and outlives the process that heard it."""
    service = await serve(model("a"))
    assert (await service.order("a", "pin")).json()["pinned"] is True

    await service.restart()

    assert (await service.model("a"))["pinned"] is True
    await service.order("a", "unpin")
    await service.restart()
    assert (await service.model("a"))["pinned"] is False


async def test_a_second_control_plane_on_the_same_state_refuses(serve: Serve) -> None:
    """It names the holder and ends; the first one is not disturbed."""
    service = await serve(model("a"))
    first = service.process
    assert first is not None
    url = service.base_url

    second = service.spawn()
    code = await service.ended()
    told = service.log_path.read_text()
    service.process = first

    assert second.pid != first.pid
    assert code != 0
    assert f"pid {first.pid}" in told
    assert url == service.base_url
    assert await ask(service.openai(), "a", "x")


SEED = 20


async def test_random_kills_under_load_leak_nothing(serve: Serve) -> None:
    """Ten SIGKILLs at moments drawn from a seed, with swaps, loads and streams under way, never break a promise.

    No engine runs twice, reservations stay within the budget, every request of a past life has an outcome, and the
    service works afterwards.
    """
    script = {"load_seconds": 0.3, "tokens_per_second": 100, "memory_mib": 10}
    names = ["a", "b", "c"]
    service = await serve(*(model(name, mib=400, slots=2, script=script) for name in names))
    draw = random.Random(SEED)
    for _ in range(10):
        load = [later(_traffic(service, names, draw.random())) for _ in range(6)]
        watch = later(_watched(service))
        done, _ = await asyncio.wait((watch,), timeout=draw.uniform(0.0, 1.5))
        for task in done:
            task.result()
        await service.kill()
        watch.cancel()
        for task in load:
            task.cancel()
        await asyncio.wait((watch, *load))
        _assert_no_twins(service)
        await service.start()
        _assert_no_twins(service)
        await _assert_books(service)

    for name in names:
        assert name in await ask(service.openai(), name, name)
    open_rows = [row for row in await service.journal() if row["outcome"] is None]
    assert not open_rows


async def _traffic(service: Service, names: list[str], seed: float) -> None:
    """Calls without end; they break with the control plane."""
    draw, client = random.Random(seed), service.openai()
    try:
        while True:
            call = streamed if draw.random() < 0.5 else ask
            await call(client, draw.choice(names), f"hello {draw.random()}", draw.randint(1, 30))
    except openai.APIError:
        return


async def _watched(service: Service) -> None:
    """Look at the books as long as the control plane lives."""
    while True:
        await _assert_books(service)
        _assert_no_twins(service)


async def _assert_books(service: Service) -> None:
    (device,) = (await service.admin("devices"))["devices"]
    assert device["booked_mib"] <= device["budget_mib"], device


def _assert_no_twins(service: Service) -> None:
    for replica_id in ("a-0", "b-0", "c-0"):
        assert len(service.engines(replica_id)) <= 1, replica_id
