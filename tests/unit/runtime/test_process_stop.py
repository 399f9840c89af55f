"""Stopping real trees: whatever they do, nothing of them is left when stop returns, and nothing else is touched."""

import asyncio
import signal

import psutil
import pytest

from controlplane.runtime.process import ProcessRuntime
from tests.contract.desk import Visitor
from tests.contract.runtime_worlds import Exits, ProcessWorld

LONG_SECONDS = 60


def silent(_: str) -> None:
    """Progress that nobody reads."""


def zombies() -> list[int]:
    return [child.pid for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]


def lives(pid: int) -> bool:
    """A zombie, which init has not reaped yet, holds nothing any more."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def engine_of(world: ProcessWorld, replica_id: str = "llm-0") -> tuple[ProcessRuntime, Exits, Visitor]:
    runtime, exits = world.runtime()
    await runtime.start(world.order(replica_id), silent)
    return runtime, exits, await world.desk.visitor(replica_id)


@pytest.mark.parametrize(
    ("command", "name", "role"),
    [
        ("child plain", "llm-0", "sleep"),
        ("child setsid", "llm-0", "sleep"),
        ("child bare", "unlabelled", "sleep"),
        ("orphan", "llm-0", "sleep"),
        ("stubborn-child", "llm-0", "stubborn"),
    ],
)
async def test_descendants_end_with_their_replica(world: ProcessWorld, command: str, name: str, role: str) -> None:
    """Children end in the same session, in another, with an empty environment, orphaned, and deaf to SIGTERM."""
    runtime, _, engine = await engine_of(world)
    await engine.do(command)
    child = await world.desk.visitor(name, role)
    await runtime.stop("llm-0", 0)
    await engine.gone()
    await child.gone()
    assert not lives(child.pid)
    assert zombies() == []


async def test_a_polite_stop_asks_leftovers_too(world: ProcessWorld) -> None:
    """After the leader has ended, what it left is sent SIGTERM and is not waited for until the grace ends."""
    runtime, _, engine = await engine_of(world)
    await engine.do("child setsid")
    child = await world.desk.visitor("llm-0", "sleep")
    async with asyncio.timeout(LONG_SECONDS / 2):
        await runtime.stop("llm-0", LONG_SECONDS)
    await child.gone()


async def test_what_a_dead_leader_left_is_not_waited_for(world: ProcessWorld) -> None:
    """Without its leader an engine cannot finish anything: a crash is swept at once, whatever the grace."""
    runtime, exits, engine = await engine_of(world)
    await engine.do("stubborn-child")
    child = await world.desk.visitor("llm-0", "stubborn")
    engine.order("exit 1")
    await exits.next()
    async with asyncio.timeout(LONG_SECONDS / 2):
        await runtime.stop("llm-0", LONG_SECONDS)
    await child.gone()


async def test_the_leader_alone_is_asked_first(world: ProcessWorld) -> None:
    """While the leader drains, its children are left alone: they may be doing the work."""
    runtime, _, engine = await engine_of(world)
    await engine.do("child setsid")
    child = await world.desk.visitor("llm-0", "sleep")
    await engine.do("report-sigterm")
    stopping = asyncio.create_task(runtime.stop("llm-0", LONG_SECONDS))
    assert await engine.reader.readline() == b"sigterm\n"
    assert lives(child.pid)
    await runtime.stop("llm-0", 0)
    await stopping
    await child.gone()


async def test_deaf_engines_are_killed_when_the_grace_ends(world: ProcessWorld) -> None:
    """An engine that ignores SIGTERM is given its grace, then SIGKILL."""
    runtime, exits, engine = await engine_of(world)
    await engine.do("ignore-sigterm")
    await runtime.stop("llm-0", 0.2)
    await engine.gone()
    assert world.processes("llm-0") == []
    assert exits.none()


async def test_a_second_stop_can_hurry_the_first(world: ProcessWorld) -> None:
    """Stops join, and the shortest grace counts."""
    runtime, _, engine = await engine_of(world)
    await engine.do("ignore-sigterm")
    patient = asyncio.create_task(runtime.stop("llm-0", LONG_SECONDS))
    async with asyncio.timeout(LONG_SECONDS / 2):
        await runtime.stop("llm-0", 0)
        await patient
    await engine.gone()


async def test_a_longer_grace_does_not_slow_a_stop(world: ProcessWorld) -> None:
    """A patient second caller cannot take back the first one's haste."""
    runtime, _, engine = await engine_of(world)
    await engine.do("ignore-sigterm")
    hasty = asyncio.create_task(runtime.stop("llm-0", 0.2))
    async with asyncio.timeout(LONG_SECONDS / 2):
        await runtime.stop("llm-0", LONG_SECONDS)
        await hasty


async def test_a_stop_whose_caller_left_is_finished(world: ProcessWorld) -> None:
    """Cancelling one caller does not break the stop off."""
    runtime, _, engine = await engine_of(world)
    await engine.do("report-sigterm")
    caller = asyncio.create_task(runtime.stop("llm-0", LONG_SECONDS))
    assert await engine.reader.readline() == b"sigterm\n"
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await runtime.stop("llm-0", 0)
    assert world.processes("llm-0") == []


async def test_forking_does_not_outrun_a_stop(world: ProcessWorld) -> None:
    """A line of processes, each of which forks the next and ends, is ended with its replica."""
    runtime, _, engine = await engine_of(world)
    await engine.do("fork-for-ever")
    await runtime.stop("llm-0", 0)
    await engine.gone()  # every process of the line holds the engine's connection open


async def test_a_frozen_engine_is_killed(world: ProcessWorld) -> None:
    """SIGTERM waits on a stopped process for ever; SIGKILL does not."""
    runtime, _, engine = await engine_of(world)
    psutil.Process(engine.pid).send_signal(signal.SIGSTOP)
    await runtime.stop("llm-0", 0.2)
    await engine.gone()


async def test_crashes_leave_no_zombies(world: ProcessWorld) -> None:
    """A child that ends by itself is reaped, whether it exits or is killed, and the report says which."""
    runtime, exits = world.runtime()
    for replica_id, words in (("llm-0", "exit code 9"), ("llm-1", "killed by SIGKILL")):
        await runtime.start(world.order(replica_id), silent)
        engine = await world.desk.visitor(replica_id)
        if replica_id == "llm-0":
            engine.order("exit 9")
        else:
            psutil.Process(engine.pid).kill()
        assert words in (await exits.next()).reason
    assert zombies() == []


async def test_a_strangers_child_is_never_ours(world: ProcessWorld) -> None:
    """A replica of another store that descends from ours is left alone, as are its children."""
    runtime, _, engine = await engine_of(world)
    await engine.do(f"relabel {world.store_id('two')}")
    other = await world.desk.visitor("llm-0", "sleep")
    await runtime.stop("llm-0", 0)
    await engine.gone()
    assert lives(other.pid)
    other_runtime, _ = world.runtime("two")
    await other_runtime.stop("llm-0", 0)
    await other.gone()


async def test_memory_counts_the_whole_tree(world: ProcessWorld) -> None:
    """What the engine takes shows up, and what it gave back by ending is gone."""
    runtime, _, engine = await engine_of(world)
    before = (await runtime.memory_mib())["llm-0"]
    await engine.do("child bare")
    await world.desk.visitor("unlabelled", "sleep")
    with_child = (await runtime.memory_mib())["llm-0"]
    await engine.do("hold 100")
    held = (await runtime.memory_mib())["llm-0"]
    assert with_child > before
    assert 100 <= held - with_child < 130
    await runtime.stop("llm-0", 0)  # the child hides its label, so only the runtime finds it again
