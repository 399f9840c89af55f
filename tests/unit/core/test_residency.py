"""Residency decisions, one at a time: who starts, who leaves, what is kept for whom, and what the waiting are told."""

from __future__ import annotations

from dataclasses import replace

from controlplane.core.model import (
    Demand,
    DeviceBudget,
    Hold,
    InferenceType,
    Intent,
    ModelSpec,
    Replica,
    ReplicaState,
    Snapshot,
)
from controlplane.core.plan import (
    Action,
    CordonReplica,
    Plan,
    StartReplica,
    StopReason,
    StopReplica,
    UncordonReplica,
    WaitKind,
)
from controlplane.core.planner import plan, replica_name, unplaceable

S = ReplicaState
NOW = 10_000.0
LONG_AGO = NOW - 1_000.0


def world(sizes: dict[str, int], *budgets: int, **changes: object) -> Snapshot:
    models = {name: _spec(name, mib) for name, mib in sizes.items()}
    devices = {f"d{n}": DeviceBudget(f"d{n}", mib) for n, mib in enumerate(budgets or (100,))}
    return replace(Snapshot(models, devices), **changes)  # type: ignore[arg-type]


def _spec(name: str, mib: int) -> ModelSpec:
    return ModelSpec(name, (InferenceType.TEXT2TEXT,), mib, max_concurrency=2)


def replica(name: str, mib: int, state: ReplicaState = S.READY, **more: object) -> Replica:
    made = Replica(replica_name(name, 0), name, 1, state, "d0", mib, changed_at=LONG_AGO, last_used_at=LONG_AGO)
    return replace(made, **more)  # type: ignore[arg-type]


def rows(*replicas: Replica) -> dict[str, Replica]:
    return {r.replica_id: r for r in replicas}


def busy(*names: str) -> dict[str, int]:
    return {replica_name(name, 0): 1 for name in names}


def asked(**seconds_ago: float) -> dict[str, Demand]:
    """Models somebody waits for at priority 50, by how long ago the first one asked."""
    return {name: Demand(1, NOW - ago - 300.0, 50, NOW - ago) for name, ago in seconds_ago.items()}


def spec_of(snapshot: Snapshot, name: str, **changes: object) -> Snapshot:
    changed = replace(snapshot.models[name], **changes)  # type: ignore[arg-type]
    return replace(snapshot, models={**snapshot.models, name: changed})


def start(name: str, mib: int, device_id: str = "d0") -> StartReplica:
    return StartReplica(replica_name(name, 0), name, device_id, mib)


def evict(name: str, for_model: str) -> StopReplica:
    return StopReplica(replica_name(name, 0), StopReason.EVICTED, for_model)


def decided(snapshot: Snapshot) -> tuple[tuple[Action, ...], tuple[Hold, ...], dict[str, WaitKind]]:
    made: Plan = plan(snapshot, NOW)
    return made.actions, made.holds, {name: wait.kind for name, wait in made.waits.items()}


def test_the_least_recently_used_idle_replica_leaves() -> None:
    """Of two that would do, the one that nobody used for longer."""
    old, new = replica("a", 50), replica("b", 50, last_used_at=NOW - 5.0)
    actions, holds, waits = decided(world({"a": 50, "b": 50, "c": 40}, replicas=rows(new, old), demands=asked(c=1)))
    assert actions == (evict("a", "c"),)
    assert holds == (Hold("c", "d0", 40),)
    assert waits == {"c": WaitKind.MAKING_ROOM}


def test_nobody_leaves_in_vain() -> None:
    """The older but small one stays when the big one's room alone is enough."""
    small, big = replica("a", 20), replica("b", 60, last_used_at=NOW - 5.0)
    snapshot = world({"a": 20, "b": 60, "c": 60}, replicas=rows(small, big), demands=asked(c=1))
    assert decided(snapshot)[0] == (evict("b", "c"),)


def test_an_idle_one_is_spared_when_a_busy_one_must_go_anyway() -> None:
    """Draining the big busy one makes all the room: stopping the idle one too would only cost a reload."""
    snapshot = world(
        {"a": 20, "b": 80, "c": 80},
        replicas=rows(replica("a", 20), replica("b", 80)),
        leases=busy("b"),
        demands=asked(c=1),
    )
    assert decided(snapshot)[0] == (CordonReplica(replica_name("b", 0), "c"),)


def test_room_is_better_than_eviction_and_eviction_better_than_draining() -> None:
    """Over several devices the cheapest way wins, whatever the order of their names."""
    here = rows(replica("a", 100), replica("b", 100, device_id="d1"))
    sizes = {"a": 100, "b": 100, "c": 80}
    on_three = world(sizes, 100, 100, 100, replicas=here, leases=busy("a"), demands=asked(c=1))
    assert decided(on_three)[0] == (start("c", 80, "d2"),)
    on_two = world(sizes, 100, 100, replicas=here, leases=busy("a"), demands=asked(c=1))
    assert decided(on_two)[0] == (evict("b", "c"),)


def test_a_model_that_nobody_asked_for_makes_nobody_leave() -> None:
    """min_replicas and revival use free room only, and hold none."""
    kept = replica("a", 80)
    dead = replica("c", 0, S.FAILED, revive=True)
    snapshot = world({"a": 80, "b": 40, "c": 40}, replicas=rows(kept, dead))
    assert decided(spec_of(snapshot, "b", min_replicas=1)) == ((), (), {})


def test_an_order_to_load_goes_before_every_request() -> None:
    """It makes room as the most urgent request would."""
    intents = {"b": Intent(load_since=NOW)}
    snapshot = world({"a": 80, "b": 80}, demands=asked(a=290), intents=intents)
    assert decided(snapshot)[0] == (start("b", 80),)


def test_a_pin_set_while_draining_ends_the_drain() -> None:
    """What the operator pins stays, even when its room was promised a moment ago."""
    draining = replica("a", 80, cordoned_for="b")
    pinned = {"a": Intent(pinned=True)}
    for leases in ({}, busy("a")):
        snapshot = world({"a": 80, "b": 80}, replicas=rows(draining), leases=leases, demands=asked(b=5), intents=pinned)
        actions, holds, waits = decided(snapshot)
        assert actions == (UncordonReplica(draining.replica_id),)
        assert (holds, waits) == ((), {"b": WaitKind.NO_ROOM})


def test_a_drain_ends_when_its_model_goes_elsewhere() -> None:
    """Another device came free: only its turn to start is missing there, so the drained one is let go."""
    here = rows(replica("a", 80, cordoned_for="c"), replica("b", 40, S.STARTING, device_id="d1"))
    snapshot = world({"a": 80, "b": 40, "c": 60}, 100, 100, replicas=here, leases=busy("a"), demands=asked(c=5))
    assert decided(snapshot) == (
        (UncordonReplica(replica_name("a", 0)),),
        (Hold("c", "d1", 60),),
        {"c": WaitKind.START_TURN},
    )


def test_a_drain_ends_when_nobody_waits_any_more() -> None:
    """The last request for the room was cancelled."""
    draining = replica("a", 80, cordoned_for="b")
    snapshot = world({"a": 80, "b": 80}, replicas=rows(draining), leases=busy("a"))
    assert decided(snapshot)[0] == (UncordonReplica(draining.replica_id),)


def test_who_drains_without_a_lease_stops_at_once() -> None:
    """It has a line but serves nobody yet: it yields in one step, and its line is told so."""
    snapshot = world({"a": 80, "b": 80}, replicas=rows(replica("a", 80)), demands=asked(a=1, b=5))
    actions, _, waits = decided(snapshot)
    assert actions == (CordonReplica(replica_name("a", 0), "b"), evict("a", "b"))
    assert waits == {"a": WaitKind.YIELDING, "b": WaitKind.MAKING_ROOM}


def test_an_unloaded_start_gives_its_turn_away_at_once() -> None:
    """The start that is called off does not count against the one that takes its turn."""
    snapshot = world(
        {"a": 40, "b": 40}, replicas=rows(replica("a", 40, S.STARTING, cordoned_for="")), demands=asked(b=5)
    )
    unloaded = StopReplica(replica_name("a", 0), StopReason.UNLOADED)
    assert decided(snapshot)[0] == (unloaded, start("b", 40))


def test_a_model_that_left_the_config_takes_no_more_requests() -> None:
    """Busy, it is cordoned; its room counts as coming free, so nobody else has to leave for it."""
    here = rows(replica("gone", 60), replica("a", 40))
    snapshot = world({"a": 40, "b": 60}, replicas=here, leases=busy("gone", "a"), demands=asked(b=5))
    assert decided(snapshot) == (
        (CordonReplica(replica_name("gone", 0), ""),),
        (Hold("b", "d0", 60),),
        {"b": WaitKind.MAKING_ROOM},
    )


def test_an_unhealthy_replica_is_replaced_even_with_leases() -> None:
    """What makes no progress never gives its leases back; its room is kept for its own line."""
    sick = replica("a", 80, healthy=False)
    snapshot = world({"a": 80, "b": 60}, replicas=rows(sick), leases=busy("a"), demands=asked(a=5, b=1))
    actions, holds, waits = decided(snapshot)
    assert actions == (StopReplica(sick.replica_id, StopReason.UNHEALTHY),)
    assert holds == (Hold("a", "d0", 80),)
    assert waits == {"a": WaitKind.STOPPING, "b": WaitKind.NO_ROOM}


def test_the_room_of_an_ending_life_is_kept_for_the_next() -> None:
    """While a model's own replica stops, nobody who came later takes what it will need again."""
    snapshot = world({"a": 80, "b": 60}, replicas=rows(replica("a", 80, S.STOPPING)), demands=asked(a=5, b=1))
    assert decided(snapshot) == ((), (Hold("a", "d0", 80),), {"a": WaitKind.STOPPING, "b": WaitKind.NO_ROOM})


def test_room_is_kept_while_only_a_residency_is_waited_out() -> None:
    """The big one keeps the free room too, so a later small one cannot start a residency of its own in it."""
    fresh = replica("a", 60, changed_at=NOW - 5.0)
    snapshot = world({"a": 60, "b": 90, "c": 30}, replicas=rows(fresh), leases=busy("a"), demands=asked(b=310, c=1))
    actions, holds, waits = decided(snapshot)
    assert (actions, holds) == ((), (Hold("b", "d0", 90),))
    assert waits == {"b": WaitKind.NO_ROOM, "c": WaitKind.NO_ROOM}
    assert plan(snapshot, NOW).wake_at == NOW + 15.0


def test_room_is_kept_while_a_later_model_only_finishes_its_start() -> None:
    """What starts for requests that come after yields as soon as it is up."""
    starting = replica("a", 60, S.STARTING)
    snapshot = world({"a": 60, "b": 90, "c": 30}, replicas=rows(starting), demands=asked(b=5, a=2, c=1))
    assert decided(snapshot)[:2] == ((), (Hold("b", "d0", 90),))


def test_nothing_is_kept_behind_a_start_that_is_ahead() -> None:
    """It may serve for long; who came later uses the free room meanwhile."""
    starting = replica("a", 60, S.STARTING)
    snapshot = world({"a": 60, "b": 90, "c": 30}, replicas=rows(starting), demands=asked(a=5, b=2, c=1))
    snapshot = replace(snapshot, rules=replace(snapshot.rules, parallel_starts_per_device=2))
    assert decided(snapshot)[:2] == ((start("c", 30),), ())


def test_what_is_promised_to_one_leaves_the_rest_to_others() -> None:
    """b waits for a's residency and needs a's room only: c may have the idle one's."""
    here = rows(replica("a", 60, changed_at=NOW - 5.0), replica("idle", 40))
    sizes = {"a": 60, "idle": 40, "b": 60, "c": 40}
    snapshot = world(sizes, replicas=here, leases=busy("a"), demands=asked(b=310, c=1))
    actions, holds, _ = decided(snapshot)
    assert actions == (evict("idle", "c"),)
    assert holds == (Hold("b", "d0", 60), Hold("c", "d0", 40))


def test_an_idle_timeout_spares_the_wanted_the_pinned_and_the_kept() -> None:
    """Only a replica that nobody needs leaves by itself."""
    snapshot = spec_of(world({"a": 40}, replicas=rows(replica("a", 40))), "a", idle_timeout_seconds=60.0)
    assert decided(snapshot)[0] == (StopReplica(replica_name("a", 0), StopReason.IDLE),)
    assert decided(replace(snapshot, demands=asked(a=1)))[0] == ()
    assert decided(replace(snapshot, leases=busy("a")))[0] == ()
    assert decided(replace(snapshot, intents={"a": Intent(pinned=True)}))[0] == ()
    assert decided(spec_of(snapshot, "a", min_replicas=1))[0] == ()


def test_an_idle_timeout_is_slept_to_exactly() -> None:
    """The plan names the moment; a second earlier nothing happens."""
    rested = replica("a", 40, last_used_at=NOW - 20.0)
    snapshot = spec_of(world({"a": 40}, replicas=rows(rested)), "a", idle_timeout_seconds=60.0)
    assert plan(snapshot, NOW).wake_at == NOW + 40.0
    assert plan(snapshot, NOW + 39.0).actions == ()
    assert plan(snapshot, NOW + 40.0).actions == (StopReplica(rested.replica_id, StopReason.IDLE),)


def test_a_resting_replica_is_waited_for_until_its_retry() -> None:
    """Its requests are told when, and why it failed."""
    failed = replica("a", 0, S.FAILED, retry_at=NOW + 8.0, failure_reason="out of memory")
    made = plan(world({"a": 40}, replicas=rows(failed), demands=asked(a=1)), NOW)
    wait = made.waits["a"]
    assert (made.actions, made.wake_at) == ((), NOW + 8.0)
    assert (wait.kind, wait.until, wait.detail) == (WaitKind.BACKING_OFF, NOW + 8.0, "out of memory")


def test_no_room_names_everyone_in_the_way_and_the_next_chance() -> None:
    """Pinned, starting and busy, each by its reason, and when the first of them may change by itself."""
    here = rows(
        replica("a", 30),
        replica("b", 30, S.STARTING),
        replica("c", 30, changed_at=NOW - 5.0),
        replica("e", 30, device_id="d1"),
    )
    sizes = dict.fromkeys("abce", 30) | {"x": 90}
    pinned = {"a": Intent(pinned=True), "e": Intent(pinned=True)}
    wait = plan(world(sizes, replicas=here, leases=busy("c"), demands=asked(x=1), intents=pinned), NOW).waits["x"]
    assert (wait.kind, wait.need_mib, wait.free_mib, wait.until) == (WaitKind.NO_ROOM, 90, 10, NOW + 15.0)
    assert {(b.replica_id, b.why) for b in wait.blockers} == {("a-0", "pinned"), ("b-0", "starting"), ("c-0", "busy")}


def test_a_model_too_big_for_every_device_is_told_so() -> None:
    """Whoever waits for it learns the largest budget, and nobody leaves for it."""
    snapshot = world({"a": 40, "x": 130}, 100, 60, replicas=rows(replica("a", 40)), demands=asked(x=1))
    made = plan(snapshot, NOW)
    assert (made.actions, made.waits["x"].need_mib, made.waits["x"].free_mib) == ((), 130, 100)
    assert unplaceable(snapshot.models.values(), snapshot) == {"x": 100}


def test_a_world_without_devices_waits() -> None:
    """No device was seen yet: everything waits, nothing raises."""
    made = plan(replace(world({"a": 40}, demands=asked(a=1)), devices={}), NOW)
    assert (made.actions, made.waits["a"].kind) == ((), WaitKind.NO_ROOM)


def test_a_replica_on_a_lost_device_does_no_harm() -> None:
    """Its rows stay, its requests have a reason, and the other devices go on."""
    lost = replica("a", 40, S.STOPPING, device_id="d9")
    snapshot = world({"a": 40, "b": 40}, replicas=rows(lost, replica("c", 10, device_id="d9")), demands=asked(a=5, b=1))
    actions, _, waits = decided(snapshot)
    assert start("b", 40) in actions
    assert waits == {"a": WaitKind.STOPPING, "b": WaitKind.LOADING}
