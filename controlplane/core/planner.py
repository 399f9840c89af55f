"""Residency: which replicas start, stop or yield so that waiting models get room.

Works on per-model totals, never on the queue, so its cost does not grow with
it. Deterministic: the same snapshot gives the same plan, and planning again
after applying a plan changes nothing. How room is made is decided in `room`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256

from controlplane.core import lifecycle
from controlplane.core.model import Hold, ModelSpec, Replica, ReplicaState, Snapshot
from controlplane.core.plan import (
    Action,
    CordonReplica,
    Plan,
    StartReplica,
    StopReason,
    StopReplica,
    UncordonReplica,
    Wait,
    WaitKind,
)
from controlplane.core.room import Room

_LOAD_PRIORITY = 100
_LIVE = frozenset({ReplicaState.STARTING, ReplicaState.READY})
_DOWN = frozenset({ReplicaState.STOPPED, ReplicaState.FAILED})
_KIND_WHILE = {ReplicaState.READY: WaitKind.SLOT, ReplicaState.STARTING: WaitKind.LOADING}
_LOOKS_HASHED = re.compile(r"-[0-9a-f]{6}$")


@dataclass(frozen=True, slots=True)
class Want:
    """A model that should have one more replica. Wants without a waiting request make nobody leave."""

    model_id: str
    rank: float
    may_evict: bool


def replica_name(model_id: str, ordinal: int) -> str:
    """A name fit for files, sockets and containers, the same after every restart."""
    slug = re.sub(r"[^a-z0-9.-]+", "-", model_id.lower()).strip("-.")[:40].strip("-.")
    if not slug or slug != model_id or _LOOKS_HASHED.search(slug):
        slug = f"{slug or 'model'}-{sha256(model_id.encode()).hexdigest()[:6]}"
    return f"{slug}-{ordinal}"


def plan(snapshot: Snapshot, now: float) -> Plan:
    """Decide once. Never raises for anything the world can look like."""
    released: list[UncordonReplica] = []
    snapshot = _ordered(snapshot)
    while True:
        draft = _Draft(snapshot, now)
        draft.settle()
        for want in _wants(snapshot, now):
            draft.satisfy(want)
        stale = draft.release_cordons()
        if not stale:
            draft.explain_rest()
            return draft.finished(released)
        # Room that was counted as leaving stays after all: decide again without it.
        released.extend(UncordonReplica(replica.replica_id) for replica in stale)
        kept = {r.replica_id: lifecycle.uncordoned(r) for r in stale}
        snapshot = replace(snapshot, replicas={**snapshot.replicas, **kept})


def _ordered(snapshot: Snapshot) -> Snapshot:
    """The same snapshot whatever order its rows were read in."""
    return replace(
        snapshot,
        devices=dict(sorted(snapshot.devices.items())),
        replicas=dict(sorted(snapshot.replicas.items())),
    )


def _wants(snapshot: Snapshot, now: float) -> list[Want]:
    found = (want for spec in snapshot.models.values() for want in _wants_of(spec, snapshot, now))
    return sorted(found, key=lambda want: (not want.may_evict, want.rank, want.model_id))


def _wants_of(spec: ModelSpec, snapshot: Snapshot, now: float) -> Iterator[Want]:
    mine = [r for r in snapshot.replicas.values() if r.model_id == spec.model_id]
    if any(_stays(r) for r in mine):
        return
    demand = snapshot.demands.get(spec.model_id)
    intent = snapshot.intents.get(spec.model_id)
    ranks = [demand.head_rank] if demand else []
    if intent is not None and intent.load_since is not None:
        ranks.append(intent.load_since - _LOAD_PRIORITY * snapshot.rules.ageing_seconds_per_point)
    if ranks:
        yield Want(spec.model_id, min(ranks), may_evict=True)
    elif spec.min_replicas > 0 or any(r.revive for r in mine):
        yield Want(spec.model_id, now, may_evict=False)


def _stays(replica: Replica) -> bool:
    """Up or coming up, and not about to leave."""
    return replica.serves or (replica.state is ReplicaState.STARTING and not replica.cordoned)


class _Draft:
    """A plan being written; lives for one call of `plan`."""

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self._snapshot = snapshot
        self._now = now
        self._room = Room(snapshot, now)
        self._actions: list[Action] = []
        self._holds: list[Hold] = []
        self._waits: dict[str, Wait] = {}
        self._wake_at: list[float] = []
        self._stopped: set[str] = set()
        self._by_model: dict[str, list[Replica]] = {}
        for replica in snapshot.replicas.values():
            self._by_model.setdefault(replica.model_id, []).append(replica)

    def settle(self) -> None:
        """What follows from a replica alone: the sick, the unloaded, the idle and the unknown leave."""
        for replica in self._snapshot.replicas.values():
            reason = self._leaves(replica)
            if reason is not None:
                self._stop(replica, reason)
            elif replica.state in _LIVE and replica.model_id not in self._snapshot.models and not replica.cordoned:
                self._actions.append(CordonReplica(replica.replica_id, ""))

    def satisfy(self, want: Want) -> None:
        """Start it, or hold room for it, or say why it waits."""
        mine = self._by_model.get(want.model_id, [])
        leaving = next((r for r in mine if r.state not in _DOWN), None)
        resting = next((r for r in mine if r.state is ReplicaState.FAILED and r.retry_at > self._now), None)
        if leaving is not None and leaving.cordoned_for:
            self._wait(Wait(WaitKind.YIELDING, want.model_id, leaving.replica_id, others=(leaving.cordoned_for,)))
        elif leaving is not None:
            self._wait_for_own_stop(want, leaving)
        elif resting is not None:
            self._wait(_resting(resting))
        else:
            self._place(want, self._snapshot.models[want.model_id])

    def release_cordons(self) -> list[Replica]:
        """A cordon lasts as long as its model needs the room: idle ones leave now, the stale are returned."""
        waiting = {(hold.model_id, hold.device_id) for hold in self._holds}
        stale: list[Replica] = []
        for replica in self._snapshot.replicas.values():
            if replica.state is not ReplicaState.READY or not replica.cordoned_for or self._stops(replica):
                continue
            unneeded = (replica.cordoned_for, replica.device_id) not in waiting
            if unneeded or self._room.is_pinned(replica.model_id):
                stale.append(replica)
            elif not self._snapshot.leases.get(replica.replica_id):
                self._stop(replica, StopReason.EVICTED, replica.cordoned_for)
        return stale

    def explain_rest(self) -> None:
        """Models that want no start: their requests wait for a slot, for the load, or for what left the config."""
        for model_id in self._snapshot.demands.keys() - self._waits.keys():
            mine = [r for r in self._by_model.get(model_id, []) if r.holds_memory]
            replica = min(mine, key=lambda r: r.state is not ReplicaState.READY, default=None)
            if replica is None:
                self._wait(Wait(WaitKind.NO_ROOM, model_id))
            else:
                kind = _KIND_WHILE.get(replica.state, WaitKind.STOPPING)
                self._wait(Wait(kind, model_id, replica.replica_id, replica.device_id, detail=replica.phase))

    def finished(self, released: list[UncordonReplica]) -> Plan:
        later = [at for at in self._wake_at if at > self._now]
        return Plan((*released, *self._actions), tuple(self._holds), self._waits, min(later, default=None))

    def _stops(self, replica: Replica) -> bool:
        return replica.replica_id in self._stopped

    def _wait_for_own_stop(self, want: Want, leaving: Replica) -> None:
        """Its last life is ending; the room that comes free is kept for it if nobody came first."""
        need = self._snapshot.models[want.model_id].vram_mib
        if want.may_evict and self._room.comes_free(leaving.device_id, need):
            self._hold(Hold(want.model_id, leaving.device_id, need))
        self._wait(Wait(WaitKind.STOPPING, want.model_id, leaving.replica_id, leaving.device_id))

    def _hold(self, hold: Hold) -> None:
        self._holds.append(hold)
        self._room.hold(hold)

    def _leaves(self, replica: Replica) -> StopReason | None:
        if replica.state not in _LIVE:
            return None
        busy = self._snapshot.leases.get(replica.replica_id, 0) > 0
        spec = self._snapshot.models.get(replica.model_id)
        # First, for a sick one may never give its leases back.
        if replica.state is ReplicaState.READY and not replica.healthy:
            return StopReason.UNHEALTHY
        if spec is None:
            return None if busy else StopReason.REMOVED
        if replica.cordoned_for == "":
            return None if busy else StopReason.UNLOADED
        return StopReason.IDLE if self._idled_out(replica, spec, busy=busy) else None

    def _idled_out(self, replica: Replica, spec: ModelSpec, *, busy: bool) -> bool:
        if (
            replica.state is not ReplicaState.READY
            or busy
            or spec.idle_timeout_seconds is None
            or spec.min_replicas > 0
            or replica.cordoned
            or self._room.is_pinned(replica.model_id)
            or replica.model_id in self._snapshot.demands
        ):
            return False
        due = replica.last_used_at + spec.idle_timeout_seconds
        self._wake_at.append(due)
        return due <= self._now

    def _place(self, want: Want, spec: ModelSpec) -> None:
        offer = self._room.offer(want.model_id, spec.vram_mib, want.rank, may_evict=want.may_evict)
        if offer.device_id is None:
            if offer.wait is not None:
                self._wait(offer.wait)
            return
        for replica in offer.evict:
            self._stop(replica, StopReason.EVICTED, want.model_id)
        for replica in offer.drain:
            self._drain(replica, want.model_id)
        for replica in offer.promised:
            self._room.promise(replica)
        if offer.start:
            self._start(spec, offer.device_id)
        elif offer.wait is not None:
            if want.may_evict:
                self._hold(Hold(want.model_id, offer.device_id, spec.vram_mib))
            self._wait(offer.wait)

    def _start(self, spec: ModelSpec, device_id: str) -> None:
        down = next((r for r in self._by_model.get(spec.model_id, []) if r.state in _DOWN), None)
        name = down.replica_id if down else replica_name(spec.model_id, 0)
        self._actions.append(StartReplica(name, spec.model_id, device_id, spec.vram_mib))
        self._room.book(device_id, spec.vram_mib)
        self._wait(Wait(WaitKind.LOADING, spec.model_id, name, device_id, spec.vram_mib))

    def _drain(self, replica: Replica, for_model: str) -> None:
        self._actions.append(CordonReplica(replica.replica_id, for_model))
        self._room.promise(replica)
        if not self._snapshot.leases.get(replica.replica_id):
            self._stop(replica, StopReason.EVICTED, for_model)
        self._wait(Wait(WaitKind.YIELDING, replica.model_id, replica.replica_id, others=(for_model,)))

    def _stop(self, replica: Replica, reason: StopReason, for_model: str = "") -> None:
        self._actions.append(StopReplica(replica.replica_id, reason, for_model))
        self._stopped.add(replica.replica_id)
        self._room.leave(replica)
        if reason is not StopReason.EVICTED:
            self._wait(Wait(WaitKind.STOPPING, replica.model_id, replica.replica_id, replica.device_id))

    def _wait(self, wait: Wait) -> None:
        if wait.until is not None:
            self._wake_at.append(wait.until)
        if wait.model_id in self._snapshot.demands:
            self._waits[wait.model_id] = wait


def _resting(replica: Replica) -> Wait:
    return Wait(
        WaitKind.BACKING_OFF,
        replica.model_id,
        replica.replica_id,
        until=replica.retry_at,
        detail=replica.failure_reason,
    )


def unplaceable(models: Iterable[ModelSpec], snapshot: Snapshot) -> dict[str, int]:
    """Models that no device could ever hold, with the largest budget there is (MiB)."""
    largest = max((d.budget_mib for d in snapshot.devices.values()), default=0)
    return {spec.model_id: largest for spec in models if spec.vram_mib > largest}
