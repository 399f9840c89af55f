"""What must be true of every plan, whatever the world looks like.

Each claim is checked from the snapshot and the plan alone, by the plainest
possible reading of the rules, never by the planner's own code.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from controlplane.core.model import HOLDS_MEMORY, Intent, Replica, ReplicaState, Snapshot
from controlplane.core.plan import (
    CordonReplica,
    Plan,
    StartReplica,
    StopReason,
    StopReplica,
    UncordonReplica,
)
from controlplane.core.planner import plan

# The planner wakes a thousandth late on purpose, to compare strictly.
_WAKE_SLACK_SECONDS = 0.01
_FAR_SECONDS = 1e7


def check_plan(before: Snapshot, decided: Plan, after: Snapshot, now: float) -> None:
    _budgets_hold(after)
    _one_replica_per_model(after)
    _starts_take_turns(before, decided, after)
    for action in decided.actions:
        if isinstance(action, StopReplica):
            _stop_is_fair(before, action, now)
        elif isinstance(action, CordonReplica):
            _cordon_is_fair(before, action)
        elif isinstance(action, StartReplica):
            _start_is_wanted(before, action, now)
        else:
            assert before.replicas[action.replica_id].cordoned_for, "only a cordon for a model is lifted"
    _nothing_is_done_twice(decided)
    _one_reason_each(before, decided)
    _holds_are_wanted(before, decided)
    _held_room_is_left(before, decided)
    assert decided.wake_at is None or decided.wake_at > now
    assert plan(shuffled(before), now) == decided, "the plan depends on the order of a mapping"


def check_settled(after: Snapshot, decided: Plan, now: float) -> None:
    """Planning again at once, or at any time before `wake_at`, changes nothing."""
    again = plan(after, now)
    assert again.actions == (), f"not settled: {again.actions} after {decided.actions}"
    assert again.holds == decided.holds, f"holds moved: {decided} then {again}"
    reasons = {model_id: wait.kind for model_id, wait in again.waits.items()}
    assert reasons == {k: w.kind for k, w in decided.waits.items()}, f"reasons moved: {decided} then {again}"
    wake_at = again.wake_at
    assert wake_at is None or wake_at > now
    last = now + _FAR_SECONDS if wake_at is None else wake_at - _WAKE_SLACK_SECONDS
    for at in ((now + last) / 2, last):
        if at > now:
            later = plan(after, at)
            assert later.actions == (), f"overslept: {later.actions} at +{at - now}, wake_at {wake_at}"
            assert later.holds == again.holds, f"holds change unannounced at +{at - now}: {again} then {later}"


def pinned(snapshot: Snapshot, model_id: str) -> bool:
    chosen = snapshot.intents.get(model_id, Intent()).pinned
    spec = snapshot.models.get(model_id)
    return chosen if chosen is not None else spec is not None and spec.pinned


def _budgets_hold(snapshot: Snapshot) -> None:
    booked: Counter[str] = Counter()
    for replica in snapshot.replicas.values():
        booked[replica.device_id] += replica.reserved_mib if replica.state in HOLDS_MEMORY else 0
    for device in snapshot.devices.values():
        assert booked[device.device_id] <= device.budget_mib, f"{device} is overbooked: {booked}"


def _one_replica_per_model(snapshot: Snapshot) -> None:
    holding = Counter(r.model_id for r in snapshot.replicas.values() if r.state in HOLDS_MEMORY)
    assert all(count == 1 for count in holding.values()), holding


def _starts_take_turns(before: Snapshot, decided: Plan, after: Snapshot) -> None:
    starting = Counter(r.device_id for r in after.replicas.values() if r.state is ReplicaState.STARTING)
    for device_id, count in starting.items():
        assert count <= before.rules.parallel_starts_per_device, f"{count} start on {device_id}: {decided.actions}"


def _stop_is_fair(before: Snapshot, stop: StopReplica, now: float) -> None:
    replica = before.replicas[stop.replica_id]
    busy = before.leases.get(stop.replica_id, 0) > 0
    if stop.reason is StopReason.UNHEALTHY:
        assert not replica.healthy
        return
    assert not busy, f"{stop} takes a busy replica"
    if stop.reason is StopReason.EVICTED:
        assert not pinned(before, replica.model_id), f"{stop} takes a pinned replica"
        assert replica.state is not ReplicaState.STARTING, f"{stop} takes a starting replica"
        assert _has_want(before, stop.for_model), f"{stop} is for a model nobody waits for"
    elif stop.reason is StopReason.IDLE:
        timeout = before.models[replica.model_id].idle_timeout_seconds
        assert timeout is not None
        assert now - replica.last_used_at >= timeout
        assert not pinned(before, replica.model_id)
        assert replica.model_id not in before.demands
    elif stop.reason is StopReason.REMOVED:
        assert replica.model_id not in before.models
    else:
        assert replica.cordoned_for == ""


def _cordon_is_fair(before: Snapshot, cordon: CordonReplica) -> None:
    replica = before.replicas[cordon.replica_id]
    if not cordon.for_model:
        assert replica.model_id not in before.models
        return
    assert replica.state is ReplicaState.READY
    assert not pinned(before, replica.model_id)
    assert _has_want(before, cordon.for_model)
    assert cordon.for_model != replica.model_id


def _has_want(before: Snapshot, model_id: str) -> bool:
    return model_id in before.demands or before.intents.get(model_id, Intent()).load_since is not None


def _start_is_wanted(before: Snapshot, start: StartReplica, now: float) -> None:
    mine = [r for r in before.replicas.values() if r.model_id == start.model_id]
    spec = before.models[start.model_id]
    assert start.reserve_mib == spec.vram_mib
    assert _has_want(before, start.model_id) or spec.min_replicas or any(r.revive for r in mine)
    for replica in mine:
        assert replica.state in {ReplicaState.STOPPED, ReplicaState.FAILED}
        assert replica.state is ReplicaState.STOPPED or replica.retry_at <= now, "started while backing off"


def _nothing_is_done_twice(decided: Plan) -> None:
    kinds = Counter((type(action), action.replica_id) for action in decided.actions)
    assert all(count == 1 for count in kinds.values()), decided.actions


def _one_reason_each(before: Snapshot, decided: Plan) -> None:
    assert set(decided.waits) == set(before.demands)
    assert all(wait.model_id == model_id for model_id, wait in decided.waits.items())


def _holds_are_wanted(before: Snapshot, decided: Plan) -> None:
    assert all(count == 1 for count in Counter(h.model_id for h in decided.holds).values())
    assert all(_has_want(before, hold.model_id) for hold in decided.holds)


def _held_room_is_left(before: Snapshot, decided: Plan) -> None:
    """A start never takes what is held for a model that comes before it."""
    for start in decided.actions:
        if not isinstance(start, StartReplica):
            continue
        ahead = sum(
            hold.mib
            for hold in decided.holds
            if hold.device_id == start.device_id and _rank(before, hold.model_id) < _rank(before, start.model_id)
        )
        booked = sum(
            r.reserved_mib
            for r in before.replicas.values()
            if r.state in HOLDS_MEMORY and r.device_id == start.device_id and not _leaves(r, decided, before)
        )
        assert booked + ahead + start.reserve_mib <= before.devices[start.device_id].budget_mib or ahead == 0


def _leaves(replica: Replica, decided: Plan, before: Snapshot) -> bool:
    lifted = any(isinstance(a, UncordonReplica) and a.replica_id == replica.replica_id for a in decided.actions)
    taken = any(
        isinstance(a, StopReplica | CordonReplica) and a.replica_id == replica.replica_id for a in decided.actions
    )
    return taken or replica.state is ReplicaState.STOPPING or (replica.cordoned and not lifted)


def _rank(before: Snapshot, model_id: str) -> tuple[bool, float, str]:
    """The order of models that want room, as the rules state it: demand and loads first, by rank, then the rest."""
    ranks = [before.demands[model_id].head_rank] if model_id in before.demands else []
    load_since = before.intents.get(model_id, Intent()).load_since
    if load_since is not None:
        ranks.append(load_since - 100 * before.rules.ageing_seconds_per_point)
    return (not ranks, min(ranks, default=0.0), model_id)


def shuffled(snapshot: Snapshot) -> Snapshot:
    def mixed(mapping: object) -> dict[str, object]:
        items = list(mapping.items())  # type: ignore[attr-defined]
        random.Random(7).shuffle(items)
        return dict(items)

    names = ("models", "devices", "replicas", "leases", "demands", "intents")
    return replace(snapshot, **{name: mixed(getattr(snapshot, name)) for name in names})
