"""A modelled world around the planner: queue, replicas, leases and a virtual clock.

It plays the loop, the dispatcher and the runtime, and checks every plan
against `plan_claims`. Nothing here decides residency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from plan_claims import check_plan, check_settled

from controlplane.core import lifecycle
from controlplane.core.lifecycle import Backoff
from controlplane.core.model import (
    DeviceBudget,
    Hold,
    InferenceType,
    Intent,
    ModelSpec,
    Replica,
    ReplicaState,
    RequestHead,
    Rules,
    Snapshot,
)
from controlplane.core.plan import Plan, StopReason, StopReplica, apply
from controlplane.core.planner import plan
from controlplane.core.queue import WaitQueue

EPOCH = 1_000_000.0


def model(model_id: str, vram_mib: int, *, max_concurrency: int = 1, **more: object) -> ModelSpec:
    return ModelSpec(
        model_id=model_id,
        types=(InferenceType.TEXT2TEXT,),
        vram_mib=vram_mib,
        max_concurrency=max_concurrency,
        **{"loading_seconds": 10.0, **more},  # type: ignore[arg-type]
    )


@dataclass(frozen=True)
class Lease:
    request: RequestHead
    replica_id: str
    granted_at: float


@dataclass(frozen=True)
class Arrival:
    at: float
    model_id: str
    priority: int = 50


@dataclass
class Served:
    """What became of the requests, and when replicas came and went, in seconds."""

    granted: dict[str, float] = field(default_factory=dict)
    ready: list[tuple[float, str]] = field(default_factory=list)
    stopped: list[tuple[float, str, StopReason]] = field(default_factory=list)
    started: list[tuple[float, str]] = field(default_factory=list)


class World:
    """Mutable facts; every change is a method, as every event of the loop is."""

    def __init__(self, models: Iterable[ModelSpec], budgets: Iterable[int], rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.backoff = Backoff()
        self.now = EPOCH
        self.models = {spec.model_id: spec for spec in models}
        self.devices = {f"d{n}": DeviceBudget(f"d{n}", mib) for n, mib in enumerate(budgets)}
        self.replicas: dict[str, Replica] = {}
        self.leases: list[Lease] = []
        self.queue = WaitQueue(self.rules.ageing_seconds_per_point)
        self.intents: dict[str, Intent] = {}
        self.holds: tuple[Hold, ...] = ()
        self.wake_at: float | None = None
        self.seen = Served()
        self.lease_seconds = 2.0
        self.stop_seconds = 1.0
        self._requests = 0

    # Facts.

    def snapshot(self) -> Snapshot:
        counts: dict[str, int] = {}
        for lease in self.leases:
            counts[lease.replica_id] = counts.get(lease.replica_id, 0) + 1
        return Snapshot(
            models=dict(self.models),
            devices=dict(self.devices),
            replicas=dict(self.replicas),
            leases=counts,
            demands=self.queue.demands(),
            holds=self.holds,
            intents=dict(self.intents),
            rules=self.rules,
        )

    def in_state(self, *states: ReplicaState) -> list[Replica]:
        return [r for r in self.replicas.values() if r.state in states]

    def of_model(self, model_id: str) -> Replica | None:
        return next((r for r in self.replicas.values() if r.model_id == model_id), None)

    def pinned(self, model_id: str) -> bool:
        intent = self.intents.get(model_id, Intent())
        spec = self.models.get(model_id)
        return intent.pinned if intent.pinned is not None else spec is not None and spec.pinned

    # Events.

    def submit(self, model_id: str, priority: int = 50) -> str:
        self._requests += 1
        request_id = f"r{self._requests}"
        self.queue.push(RequestHead(request_id, model_id, priority, self.now))
        self.dispatch()
        return request_id

    def cancel(self, request_id: str) -> None:
        self.queue.remove(request_id)

    def dispatch(self) -> None:
        """A free slot of a serving replica takes the head of its model's line at once."""
        for replica in list(self.replicas.values()):
            while replica.serves and self._busy(replica) < self._slots(replica):
                head = self.queue.pop(replica.model_id)
                if head is None:
                    break
                self.leases.append(Lease(head, replica.replica_id, self.now))
                self.seen.granted.setdefault(head.request_id, self.now)
                self._used(replica.replica_id)

    def finish(self, lease: Lease) -> None:
        self.leases.remove(lease)
        self._used(lease.replica_id)
        self.dispatch()

    def became_ready(self, replica_id: str, *, dispatched: bool = True) -> None:
        """The loop may plan before the first lease is granted: `dispatched` says whether it got that far."""
        replica = self.replicas[replica_id] = lifecycle.ready(self.replicas[replica_id], self.now)
        self.intents[replica.model_id] = replace(self.intents.get(replica.model_id, Intent()), load_since=None)
        self.seen.ready.append((self.now, replica.model_id))
        if dispatched:
            self.dispatch()

    def crash(self, replica_id: str, *, retry: bool) -> None:
        """It died: its leases end with it; their requests fail or go back into the line."""
        self.replicas[replica_id] = lifecycle.crashed(self.replicas[replica_id], "boom", self.now, self.backoff)
        self._drop_leases(replica_id, retry=retry)

    def proved_gone(self, replica_id: str) -> None:
        self._drop_leases(replica_id, retry=False)
        self.replicas[replica_id] = lifecycle.gone(self.replicas[replica_id], self.now)

    def sick(self, replica_id: str) -> None:
        self.replicas[replica_id] = replace(self.replicas[replica_id], healthy=False)

    def load(self, model_id: str) -> None:
        """The order is done, and forgotten, as soon as a replica serves."""
        replica = self.of_model(model_id)
        if replica is not None and replica.serves:
            return
        self.intents[model_id] = replace(self.intents.get(model_id, Intent()), load_since=self.now)

    def unload(self, model_id: str) -> None:
        replica = self.of_model(model_id)
        self.intents[model_id] = replace(self.intents.get(model_id, Intent()), load_since=None)
        if replica is not None and replica.state in {ReplicaState.STARTING, ReplicaState.READY}:
            self.replicas[replica.replica_id] = lifecycle.cordoned(replica, "")

    def pin(self, model_id: str, *, pinned: bool | None) -> None:
        self.intents[model_id] = replace(self.intents.get(model_id, Intent()), pinned=pinned)

    # Steps.

    def step(self) -> Plan:
        """Plan, check every claim, apply; then check that it has settled."""
        before = self.snapshot()
        decided = plan(before, self.now)
        for action in decided.actions:
            self._note(action)
            self.replicas[action.replica_id] = apply(action, self.replicas, self.now, self.backoff)
        self.holds = decided.holds
        self.wake_at = decided.wake_at
        check_plan(before, decided, self.snapshot(), self.now)
        self.dispatch()
        if self.queue.demands() == before.demands:
            check_settled(self.snapshot(), decided, self.now)
        return decided

    def pass_time(self, arrivals: list[Arrival] | None = None, until: float | None = None) -> bool:
        """Go to the next thing that happens in a fair world, and let it happen. False: nothing ever will."""
        due = [*self._due(), *([(arrivals[0].at, _nothing)] if arrivals else [])]
        if self.wake_at is not None:
            due.append((self.wake_at, _nothing))
        if until is not None:
            due.append((until, _nothing))
        if not due:
            return False
        self.now = max(self.now, min(at for at, _ in due))
        for at, happen in due:
            if at <= self.now:
                happen()
        while arrivals and arrivals[0].at <= self.now:
            arrival = arrivals.pop(0)
            self.submit(arrival.model_id, arrival.priority)
        return True

    def run(self, arrivals: Iterable[Arrival] = (), until: float | None = None, max_steps: int = 100_000) -> None:
        """Fair world: starts succeed, stops are proved, leases end. Ends when nothing can happen, or at `until`."""
        todo = sorted(arrivals, key=lambda a: a.at)
        for _ in range(max_steps):
            self.step()
            if not self.pass_time(todo, until) or (until is not None and self.now >= until):
                return
        raise AssertionError(f"not quiet after {max_steps} steps; waiting: {self.queue.demands()}")

    def _due(self) -> list[tuple[float, Callable[[], None]]]:
        """Pending effects and when they end. Bound to today's rows: a row that moved on is left alone."""
        due: list[tuple[float, Callable[[], None]]] = []
        for lease in self.leases:
            due.append((lease.granted_at + self.lease_seconds, lambda x=lease: x in self.leases and self.finish(x)))
        for r in self.in_state(ReplicaState.STARTING):
            loading = self.models[r.model_id].loading_seconds if r.model_id in self.models else 1.0
            due.append((r.changed_at + loading, lambda x=r.replica_id: self.became_ready(x)))
        for r in self.in_state(ReplicaState.STOPPING):
            due.append((r.changed_at + self.stop_seconds, lambda x=r.replica_id: self.proved_gone(x)))
        return due

    def _note(self, action: object) -> None:
        if isinstance(action, StopReplica):
            self.seen.stopped.append((self.now, self.replicas[action.replica_id].model_id, action.reason))
        elif hasattr(action, "reserve_mib"):
            self.seen.started.append((self.now, action.model_id))

    def _busy(self, replica: Replica) -> int:
        return sum(lease.replica_id == replica.replica_id for lease in self.leases)

    def _slots(self, replica: Replica) -> int:
        spec = self.models.get(replica.model_id)
        return spec.max_concurrency if spec else 1

    def _used(self, replica_id: str) -> None:
        self.replicas[replica_id] = replace(self.replicas[replica_id], last_used_at=self.now)

    def _drop_leases(self, replica_id: str, *, retry: bool) -> None:
        mine = [lease for lease in self.leases if lease.replica_id == replica_id]
        self.leases = [lease for lease in self.leases if lease.replica_id != replica_id]
        for lease in mine if retry else ():
            self.queue.push(lease.request)
            del self.seen.granted[lease.request.request_id]


def _nothing() -> None:
    """An event that only moves the clock."""
