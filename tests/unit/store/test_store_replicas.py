"""Durable state: replicas, reservations, intents, load times, and their events."""

import asyncio
from dataclasses import replace

import pytest
from store_rows import ManualClock, create, replica

from controlplane.core.model import Intent, ReplicaState
from controlplane.store.database import Place
from controlplane.store.errors import RowRefused, StaleWrite
from controlplane.store.records import EventDraft, LoadTier, LoadTime, ReplicaChange
from controlplane.store.store import Store


async def test_every_field_survives_a_restart(place: Place, clock: ManualClock) -> None:
    """What was committed is read back equal by the next life, each field under its own name."""
    full = replica(
        "llm-1",
        7,
        state=ReplicaState.READY,
        created_at=1.5,
        changed_at=2.5,
        reserved_mib=0,
        endpoint="unix:/run/llm-1.sock",
        handle="4711@99",
        cordoned_for="other",
        failures=3,
        retry_at=4.5,
        failure_reason="it fell over",
        phase="loading weights",
        ready_at=5.5,
        last_used_at=6.5,
        revive=True,
    )
    bare = replica("llm-0", reserved_mib=None)
    store = await Store.open(place, holder="one", clock=clock)
    await store.commit_replicas([create(full), create(bare)])
    await store.close()
    store = await Store.open(place, holder="two", clock=clock)
    assert await store.replicas() == [bare, full]
    await store.close()


async def test_one_stale_change_spoils_its_commit(store: Store) -> None:
    """Rows, reservations and events of a commit come together or not at all."""
    old = replica("llm-0", 3)
    await store.commit_replicas([create(old)])
    fresh = ReplicaChange(replica("llm-1"), None, EventDraft("started"))
    for stale in (
        ReplicaChange(replace(old, generation=4), 2),
        ReplicaChange(replace(old, generation=4), None),
        ReplicaChange(replica("llm-9", 2), 1),
    ):
        with pytest.raises(StaleWrite, match=f"cannot write replica {stale.record.replica_id}: it "):
            await store.commit_replicas([fresh, stale])
    assert await store.replicas() == [old]
    assert await store.events() == []


async def test_a_change_and_its_event_are_one(store: Store, clock: ManualClock) -> None:
    """The event carries the replica as its subject and the time of the commit."""
    clock.now = 1234.5
    await store.commit_replicas([ReplicaChange(replica(), None, EventDraft("started", {"tier": ["cold", 1]}))])
    await store.delete_replica("llm-0", 1, EventDraft("removed"))
    await store.set_intent("llm", Intent(pinned=True), EventDraft("pinned"))
    told = [(e.id, e.at, e.kind, e.subject, e.detail) for e in await store.events()]
    assert told == [
        (1, 1234.5, "started", "llm-0", {"tier": ["cold", 1]}),
        (2, 1234.5, "removed", "llm-0", {}),
        (3, 1234.5, "pinned", "llm", {}),
    ]
    assert [event.id for event in await store.events(after_id=1, limit=1)] == [2]


async def test_delete_is_compare_and_set_too(store: Store) -> None:
    """A row that moved on is not deleted by a late report, nor one that is gone."""
    await store.commit_replicas([create(replica("llm-0", 2))])
    with pytest.raises(StaleWrite, match="cannot delete replica llm-0: it is at generation 2, expected generation 1"):
        await store.delete_replica("llm-0", 1)
    await store.delete_replica("llm-0", 2)
    with pytest.raises(StaleWrite, match="it has no row"):
        await store.delete_replica("llm-0", 2)


async def test_reservation_ends_with_the_change_that_says_so(store: Store) -> None:
    """None ends a reservation, and a row created again does not inherit one."""
    await store.commit_replicas([create(replica(reserved_mib=500))])
    await store.commit_replicas([ReplicaChange(replica(reserved_mib=None), 1)])
    assert [row.reserved_mib for row in await store.replicas()] == [None]
    await store.commit_replicas([ReplicaChange(replica(reserved_mib=10), 1)])
    await store.delete_replica("llm-0", 1)
    await store.commit_replicas([create(replica(reserved_mib=None))])
    assert [row.reserved_mib for row in await store.replicas()] == [None]


async def test_failing_operation_fails_alone(store: Store) -> None:
    """Operations that share a transaction share no fate: each bad one gets its own error."""
    await store.commit_replicas([create(replica("taken"))])
    ids = [f"r-{n}" for n in range(20)]
    jobs = [store.commit_replicas([create(replica(replica_id))]) for replica_id in ids]
    jobs.insert(7, store.commit_replicas([create(replica("taken"))]))
    jobs.insert(13, store.commit_replicas([create(replica("bad", reserved_mib=-1))]))
    jobs.insert(15, store.commit_replicas([create(replica("worse", handle="\ud800"))]))
    results = await asyncio.gather(*jobs, return_exceptions=True)
    failed = {n: type(result) for n, result in enumerate(results) if result is not None}
    assert failed == {7: StaleWrite, 13: RowRefused, 15: RowRefused}
    assert {row.replica_id for row in await store.replicas()} == {*ids, "taken"}
    assert store.healthy


async def test_concurrent_compare_and_set_has_one_winner(store: Store) -> None:
    """Of many writers that saw the same generation, exactly one gets through."""
    await store.commit_replicas([create(replica())])
    changes = [ReplicaChange(replica(generation=2, handle=f"writer {n}"), 1) for n in range(10)]
    results = await asyncio.gather(*(store.commit_replicas([c]) for c in changes), return_exceptions=True)
    winners = [n for n, result in enumerate(results) if result is None]
    assert [row.handle for row in await store.replicas()] == [f"writer {n}" for n in winners]
    assert len(winners) == 1


async def test_cancelled_caller_does_not_stop_the_others(store: Store) -> None:
    """A caller that leaves before its turn leaves no row; those behind it are served."""
    leaving = asyncio.ensure_future(store.commit_replicas([create(replica("left"))]))
    staying = asyncio.ensure_future(store.commit_replicas([create(replica("stayed"))]))
    await asyncio.sleep(0)
    leaving.cancel()
    await staying
    assert leaving.cancelled()
    assert [row.replica_id for row in await store.replicas()] == ["stayed"]


async def test_intents_are_replaced_whole(store: Store) -> None:
    """An intent is what was said last; an empty one is as good as none."""
    await store.set_intent("a", Intent(pinned=True, load_since=5.0))
    await store.set_intent("b", Intent(pinned=False))
    assert await store.intents() == {"a": Intent(pinned=True, load_since=5.0), "b": Intent(pinned=False)}
    await store.set_intent("a", Intent(load_since=6.0))
    await store.set_intent("b", Intent())
    assert await store.intents() == {"a": Intent(load_since=6.0)}


async def test_load_times_learn(store: Store, clock: ManualClock) -> None:
    """The mean starts plain and then leans to recent loads; the peak is the highest seen."""
    for seconds, peak_mib in ((10.0, 100), (20.0, 300), (30.0, 200)):
        clock.now += 1
        learned = await store.record_load("llm", "abc", LoadTier.COLD, seconds, peak_mib)
    assert learned == LoadTime("llm", "abc", LoadTier.COLD, 3, pytest.approx(20.0), 300, clock.now)
    for _ in range(20):
        learned = await store.record_load("llm", "abc", LoadTier.COLD, 60.0, 200)
    assert 59 < learned.mean_seconds < 60
    await store.record_load("llm", "other", LoadTier.COLD, 1.0, 1)
    await store.record_load("llm", "abc", LoadTier.WAKE, 2.0, 1)
    assert [(t.config_hash, t.tier, t.samples) for t in await store.load_times()] == [
        ("abc", LoadTier.COLD, 23),
        ("abc", LoadTier.WAKE, 1),
        ("other", LoadTier.COLD, 1),
    ]
