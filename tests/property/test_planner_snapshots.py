"""The planner on snapshots that no history need lead to: torn rows, lost devices, lowered budgets, sleepers."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from plan_claims import shuffled
from planner_world import EPOCH, model

from controlplane.core.lifecycle import Backoff
from controlplane.core.model import (
    Demand,
    DeviceBudget,
    Hold,
    Intent,
    Replica,
    ReplicaState,
    Rules,
    Snapshot,
)
from controlplane.core.plan import StartReplica, apply
from controlplane.core.planner import plan

_names = st.sampled_from("ABCDE")
_devices = st.sampled_from(["d0", "d1", "lost"])
_sizes = st.sampled_from([0, 20, 60, 100])
_times = st.sampled_from([EPOCH - 1e6, EPOCH - 100.0, EPOCH - 20.0, EPOCH, EPOCH + 7.0])

_models = st.builds(
    model,
    _names,
    _sizes,
    priority=st.sampled_from([0, 50, 100]),
    pinned=st.booleans(),
    min_replicas=st.integers(0, 2),
    idle_timeout_seconds=st.sampled_from([None, 0.0, 60.0]),
)
_replicas = st.builds(
    Replica,
    replica_id=st.sampled_from([f"{name}-{n}" for name in "ABCDE" for n in range(2)]),
    model_id=_names,
    generation=st.integers(1, 3),
    state=st.sampled_from(ReplicaState),
    device_id=_devices,
    reserved_mib=_sizes,
    changed_at=_times,
    cordoned_for=st.sampled_from([None, None, "", "A", "nobody"]),
    healthy=st.booleans(),
    last_used_at=_times,
    retry_at=_times,
    failure_reason=st.sampled_from(["", "boom"]),
    revive=st.booleans(),
)
_demands = st.builds(Demand, st.integers(1, 9), _times, st.just(50), _times)
_rules = st.builds(
    Rules,
    ageing_seconds_per_point=st.sampled_from([0.0, 6.0]),
    min_residency_seconds=st.sampled_from([0.0, 20.0]),
    parallel_starts_per_device=st.integers(0, 2),
)


@st.composite
def _snapshots(draw: st.DrawFn) -> Snapshot:
    replicas = {r.replica_id: r for r in draw(st.lists(_replicas, max_size=7))}
    return Snapshot(
        models={spec.model_id: spec for spec in draw(st.lists(_models, max_size=5))},
        devices={name: DeviceBudget(name, draw(_sizes)) for name in draw(st.sampled_from([[], ["d0"], ["d0", "d1"]]))},
        replicas=replicas,
        leases={replica_id: draw(st.integers(0, 2)) for replica_id in replicas},
        demands=draw(st.dictionaries(_names, _demands, max_size=5)),
        holds=tuple(draw(st.lists(st.builds(Hold, _names, _devices, _sizes), max_size=2))),
        intents=draw(
            st.dictionaries(_names, st.builds(Intent, st.sampled_from([None, True, False]), st.none() | _times))
        ),
        rules=draw(_rules),
    )


@settings(max_examples=10 * settings().max_examples)
@given(_snapshots())
def test_any_snapshot_gets_a_legal_plan(snapshot: Snapshot) -> None:
    """Nothing raises, every row can follow, no start overbooks, everybody has one reason, order is moot."""
    made = plan(snapshot, EPOCH)
    rows = dict(snapshot.replicas)
    for action in made.actions:
        rows[action.replica_id] = apply(action, rows, EPOCH, Backoff())
    booked: Counter[str] = Counter()
    for replica in rows.values():
        booked[replica.device_id] += replica.reserved_mib if replica.holds_memory else 0
    for action in made.actions:
        if isinstance(action, StartReplica):
            assert booked[action.device_id] <= snapshot.devices[action.device_id].budget_mib
    assert set(made.waits) == set(snapshot.demands)
    assert made.wake_at is None or made.wake_at > EPOCH
    assert plan(shuffled(snapshot), EPOCH) == made
