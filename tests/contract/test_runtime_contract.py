"""What every Runtime promises, tried on real processes and on the fake alike."""

import asyncio

import pytest

from controlplane.errors import RuntimeFailure
from controlplane.ports import ReplicaOrder, RunningReplica
from tests.contract.runtime_worlds import BROKEN, SLOW, ControlPlane, World

GRACE_SECONDS = 20


def silent(_: str) -> None:
    """Progress that nobody reads."""


async def start(plane: ControlPlane, order: ReplicaOrder) -> RunningReplica:
    return await plane.runtime.start(order, silent)


async def test_a_started_replica_runs_with_its_labels(world: World) -> None:
    """What start returns is what running lists: id, generation, config hash, address, handle."""
    plane = world.control_plane()
    replica = await start(plane, world.order("llm-0", generation=3))
    assert (replica.replica_id, replica.generation, replica.config_hash) == ("llm-0", 3, "hash-3")
    assert list(await plane.runtime.running()) == [replica]
    assert await world.alive("llm-0") == 1


async def test_starting_twice_finds_the_first(world: World) -> None:
    """Start is idempotent by replica and generation, one after the other and at the same time."""
    plane, order = world.control_plane(), world.order("llm-0")
    first, second = await asyncio.gather(start(plane, order), start(plane, order))
    third = await start(plane, order)
    assert first == second == third
    assert await world.alive("llm-0") == 1


async def test_another_generation_is_refused_while_one_runs(world: World) -> None:
    """A start never replaces a living generation; it says which one is in the way."""
    plane = world.control_plane()
    await start(plane, world.order("llm-0", generation=1))
    with pytest.raises(RuntimeFailure, match="cannot start replica llm-0: its generation 1 still runs"):
        await start(plane, world.order("llm-0", generation=2))
    assert [replica.generation for replica in await plane.runtime.running()] == [1]


async def test_a_crash_is_reported_once_with_code_and_last_words(world: World) -> None:
    """The report names replica, generation, exit code, and holds the end of the log."""
    plane = world.control_plane()
    await start(plane, world.order("llm-0", generation=2))
    crash = await world.crash("llm-0")
    report = await plane.exits.next()
    assert (report.replica_id, report.generation, report.code) == ("llm-0", 2, crash.code)
    assert crash.words in report.reason
    assert list(await plane.runtime.running()) == []
    assert plane.exits.none()


async def test_a_crashed_replica_starts_again(world: World) -> None:
    """After a crash the next generation starts without a stop between, and its crash is reported too."""
    plane = world.control_plane()
    for generation in (1, 2):
        await start(plane, world.order("llm-0", generation))
        await world.crash("llm-0")
        assert (await plane.exits.next()).generation == generation


async def test_a_stopped_replica_is_gone_and_not_reported(world: World) -> None:
    """When stop returns nothing of the replica runs, and no exit is ever reported for it."""
    plane = world.control_plane()
    await start(plane, world.order("llm-0"))
    await start(plane, world.order("other-0"))
    await plane.runtime.stop("llm-0", GRACE_SECONDS)
    assert await world.alive("llm-0") == 0
    assert [replica.replica_id for replica in await plane.runtime.running()] == ["other-0"]
    await world.crash("other-0")
    assert (await plane.exits.next()).replica_id == "other-0"
    assert plane.exits.none()


async def test_stopping_what_does_not_run_returns(world: World) -> None:
    """Stop is idempotent: an unknown replica and one stopped before are no errors."""
    plane = world.control_plane()
    await plane.runtime.stop("never-0", GRACE_SECONDS)
    await start(plane, world.order("llm-0"))
    await plane.runtime.stop("llm-0", GRACE_SECONDS)
    await plane.runtime.stop("llm-0", GRACE_SECONDS)
    assert await world.alive("llm-0") == 0


async def test_concurrent_stops_join(world: World) -> None:
    """Stops of one replica at the same time all return once it is gone."""
    plane = world.control_plane()
    await start(plane, world.order("llm-0"))
    await asyncio.gather(*(plane.runtime.stop("llm-0", GRACE_SECONDS) for _ in range(3)))
    assert await world.alive("llm-0") == 0


async def test_a_stopped_replica_starts_again_in_the_same_generation(world: World) -> None:
    """A stop leaves nothing that would hinder, or be mistaken for, the next start."""
    plane = world.control_plane()
    await start(plane, world.order("llm-0"))
    await plane.runtime.stop("llm-0", GRACE_SECONDS)
    await start(plane, world.order("llm-0"))
    assert await world.alive("llm-0") == 1
    await world.crash("llm-0")
    assert (await plane.exits.next()).replica_id == "llm-0"


async def test_a_failed_start_says_why_and_leaves_nothing(world: World) -> None:
    """A broken environment is a RuntimeFailure that names the replica; afterwards a good start succeeds."""
    plane = world.control_plane()
    with pytest.raises(RuntimeFailure, match=f"cannot start replica llm-0: {world.broken_words}"):
        await start(plane, world.order("llm-0", environment=BROKEN))
    assert list(await plane.runtime.running()) == []
    await start(plane, world.order("llm-0", generation=2))
    assert await world.alive("llm-0") == 1


async def test_a_cancelled_start_leaves_nothing(world: World) -> None:
    """Cancelling start ends it, and the replica can be started again."""
    plane = world.control_plane()
    starting = asyncio.create_task(start(plane, world.order("llm-0", environment=SLOW)))
    await world.until_start_is_held()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await world.alive("llm-0") == 0
    await start(plane, world.order("llm-0", generation=2))
    assert plane.exits.none()


async def test_a_stop_ends_a_start_under_way(world: World) -> None:
    """A start that is stopped fails with a RuntimeFailure that says so, and nothing runs."""
    plane = world.control_plane()
    starting = asyncio.create_task(start(plane, world.order("llm-0", environment=SLOW)))
    await world.until_start_is_held()
    await plane.runtime.stop("llm-0", GRACE_SECONDS)
    with pytest.raises(RuntimeFailure, match="cannot start replica llm-0: stopped while it started"):
        await starting
    assert await world.alive("llm-0") == 0


async def test_replicas_outlive_the_control_plane_and_are_adopted(world: World) -> None:
    """The next control plane finds the same replica, is told of its exit, and the dead one is not."""
    first = world.control_plane()
    replica = await start(first, world.order("llm-0"))
    await world.die(first)
    second = world.control_plane()
    assert list(await second.runtime.running()) == [replica]
    await world.crash("llm-0")
    report = await second.exits.next()
    assert (report.replica_id, report.generation) == ("llm-0", 1)
    assert first.exits.none()


async def test_an_adopted_replica_can_be_stopped(world: World) -> None:
    """Whoever finds a replica can stop it, with or without having listed it before."""
    first = world.control_plane()
    await start(first, world.order("llm-0"))
    await world.die(first)
    second = world.control_plane()
    await second.runtime.stop("llm-0", GRACE_SECONDS)
    assert await world.alive("llm-0") == 0
    assert list(await second.runtime.running()) == []


async def test_starting_an_adopted_replica_finds_it(world: World) -> None:
    """After a restart of the control plane, start returns the living replica and its exit is reported."""
    first, order = world.control_plane(), world.order("llm-0")
    replica = await start(first, order)
    await world.die(first)
    second = world.control_plane()
    assert await start(second, order) == replica
    await world.crash("llm-0")
    assert (await second.exits.next()).replica_id == "llm-0"


async def test_stores_do_not_see_each_other(world: World) -> None:
    """Two control planes on one machine list, measure and stop only their own, whatever the names."""
    one, two = world.control_plane("one"), world.control_plane("two")
    await start(one, world.order("llm-0"))
    assert list(await two.runtime.running()) == []
    assert dict(await two.runtime.memory_mib()) == {}
    await two.runtime.stop("llm-0", 0)
    assert await world.alive("llm-0") == 1


async def test_memory_is_measured_for_what_runs(world: World) -> None:
    """Each running replica has a figure above zero; a stopped one has none."""
    plane = world.control_plane()
    await start(plane, world.order("llm-0"))
    await start(plane, world.order("llm-1"))
    used = await plane.runtime.memory_mib()
    assert used.keys() == {"llm-0", "llm-1"}
    assert min(used.values()) > 0
    await plane.runtime.stop("llm-0", GRACE_SECONDS)
    assert (await plane.runtime.memory_mib()).keys() == {"llm-1"}


async def test_a_replica_that_never_ran_has_no_log(world: World) -> None:
    """Asking for the log of an unknown replica is no error."""
    assert await world.control_plane().runtime.log_tail("never-0", 10) == []


async def test_the_log_outlives_the_replica(world: World) -> None:
    """After a crash the last words can still be read, newest last, and no more lines than asked for."""
    plane = world.control_plane()
    await start(plane, world.order("llm-0"))
    crash = await world.crash("llm-0")
    await plane.exits.next()
    assert "".join(await plane.runtime.log_tail("llm-0", 1)).startswith(crash.words)
    assert await plane.runtime.log_tail("llm-0", 0) == []


async def test_closing_leaves_replicas_running(world: World) -> None:
    """Close ends the watching, not the replicas."""
    plane = world.control_plane()
    await start(plane, world.order("llm-0"))
    await plane.runtime.close()
    assert await world.alive("llm-0") == 1
