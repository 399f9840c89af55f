"""Making room on a device: what fits now, who would have to leave, who may not.

Idle replicas go first, least recently used; a busy one is drained only when
the waiting model's first request comes before whatever the busy one would
serve next, and only after its minimum residency. Pinned and starting replicas
stay. Lives for one call of the planner.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from controlplane.core.model import Hold, ModelSpec, Replica, ReplicaState, Snapshot
from controlplane.core.plan import Blocker, Wait, WaitKind


@dataclass(frozen=True, slots=True)
class Offer:
    """Where a model can go. `start`: at once; else room is kept for it there, or `device_id` is None.

    `promised`: who will leave, but not yet. Room is kept nevertheless: else
    smaller models would take it bit by bit, each new one staying its minimum residency.
    """

    device_id: str | None
    start: bool = False
    evict: tuple[Replica, ...] = ()
    drain: tuple[Replica, ...] = ()
    promised: tuple[Replica, ...] = ()
    wait: Wait | None = None


@dataclass(slots=True)
class _Account:
    """One device while planning. `leaving_mib` is the part of `booked_mib` that will come free."""

    budget_mib: int
    booked_mib: int = 0
    leaving_mib: int = 0
    held_mib: int = 0
    starting: int = 0
    leaving: list[str] = field(default_factory=list)

    @property
    def free_now_mib(self) -> int:
        return self.budget_mib - self.booked_mib - self.held_mib

    @property
    def free_soon_mib(self) -> int:
        return self.free_now_mib + self.leaving_mib


def rank_of_next(model_id: str, snapshot: Snapshot, now: float) -> float:
    """Rank of the request that a model would serve next: its first waiter, or one arriving now."""
    demand = snapshot.demands.get(model_id)
    if demand is not None:
        return demand.head_rank
    return now - snapshot.models[model_id].priority * snapshot.rules.ageing_seconds_per_point


class Room:
    """The accounts of all devices, updated as the plan takes shape."""

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self._snapshot = snapshot
        self._now = now
        self._leaving: set[str] = set()
        self._held_on = {hold.model_id: hold.device_id for hold in snapshot.holds}
        self._accounts = {d.device_id: _Account(d.budget_mib) for d in snapshot.devices.values()}
        for replica in snapshot.replicas.values():
            self._count(replica)

    def is_pinned(self, model_id: str) -> bool:
        intent = self._snapshot.intents.get(model_id)
        if intent is not None and intent.pinned is not None:
            return intent.pinned
        spec: ModelSpec | None = self._snapshot.models.get(model_id)
        return spec is not None and spec.pinned

    def comes_free(self, device_id: str, need_mib: int) -> bool:
        """Whether what is leaving already, or is free, will be enough."""
        account = self._accounts.get(device_id)
        return account is not None and account.free_soon_mib >= need_mib

    def hold(self, hold: Hold) -> None:
        self._accounts[hold.device_id].held_mib += hold.mib

    def book(self, device_id: str, mib: int) -> None:
        account = self._accounts[device_id]
        account.booked_mib += mib
        account.starting += 1

    def leave(self, replica: Replica) -> None:
        """It is going to stop in this plan."""
        account = self._accounts.get(replica.device_id)
        if account is not None and replica.state is ReplicaState.STARTING:
            account.starting -= 1
        self._count_leaving(replica)

    def promise(self, replica: Replica) -> None:
        """It will leave for a model that waits; nobody else may count on its room."""
        self._count_leaving(replica)

    def offer(self, model_id: str, need_mib: int, rank: float, *, may_evict: bool) -> Offer:
        """The best device for a model: one with room now, else one where room comes, else why not."""
        fitting = [d for d, account in self._accounts.items() if account.budget_mib >= need_mib]
        offers = [self._on_device(device, model_id, need_mib, rank, may_evict) for device in fitting]
        good = [offer for offer in offers if offer.device_id is not None]
        if good:
            best = min(good, key=lambda offer: self._preference(model_id, offer))
            return _woken_by_any(best, offers) if best.promised else best
        if offers:
            return _woken_by_any(offers[0], offers)
        largest = max((a.budget_mib for a in self._accounts.values()), default=0)
        return Offer(None, wait=Wait(WaitKind.NO_ROOM, model_id, need_mib=need_mib, free_mib=largest))

    def _preference(self, model_id: str, offer: Offer) -> tuple[object, ...]:
        """Lower is better. Room that is being made already is not given up for room elsewhere."""
        turn = offer.wait is not None and offer.wait.kind is WaitKind.START_TURN
        elsewhere = self._held_on.get(model_id) != offer.device_id
        cost = (len(offer.drain), len(offer.evict), len(offer.promised))
        return (not offer.start, not turn, bool(offer.promised), elsewhere, cost, offer.device_id)

    def _on_device(self, device_id: str, model_id: str, need_mib: int, rank: float, may_evict: bool) -> Offer:
        account = self._accounts[device_id]
        if account.free_now_mib >= need_mib:
            return self._start_or_queue(device_id, model_id, need_mib)
        if not may_evict:
            return Offer(None, wait=self._no_room(device_id, model_id, need_mib, ()))
        able, yielding, blockers = self._candidates(device_id, rank)
        missing = need_mib - account.free_soon_mib
        chosen = _fewest(able, missing)
        if _mib(chosen) < missing:
            wait = self._no_room(device_id, model_id, need_mib, blockers)
            promised = _fewest([*able, *yielding], missing)
            kept = _mib(promised) >= missing
            return Offer(device_id, promised=tuple(promised), wait=wait) if kept else Offer(None, wait=wait)
        others = (*account.leaving, *(r.replica_id for r in chosen))
        wait = Wait(
            WaitKind.MAKING_ROOM,
            model_id,
            device_id=device_id,
            need_mib=need_mib,
            free_mib=max(0, account.free_now_mib),
            others=tuple(dict.fromkeys(others)),
        )
        evict = tuple(r for r in chosen if self._is_idle(r))
        drain = tuple(r for r in chosen if not self._is_idle(r))
        return Offer(device_id, evict=evict, drain=drain, wait=wait)

    def _start_or_queue(self, device_id: str, model_id: str, need_mib: int) -> Offer:
        if self._accounts[device_id].starting < self._snapshot.rules.parallel_starts_per_device:
            return Offer(device_id, start=True)
        others = tuple(
            r.replica_id
            for r in self._snapshot.replicas.values()
            if r.state is ReplicaState.STARTING and r.device_id == device_id
        )
        wait = Wait(WaitKind.START_TURN, model_id, device_id=device_id, need_mib=need_mib, others=others)
        return Offer(device_id, wait=wait)

    def _candidates(self, device_id: str, rank: float) -> tuple[list[Replica], list[Replica], tuple[Blocker, ...]]:
        """Who may leave now, the best to lose first; who will leave soon; what keeps the others."""
        able: list[Replica] = []
        yielding: list[Replica] = []
        blockers: list[Blocker] = []
        for replica in self._staying(device_id):
            blocker = self._blocker(replica, rank)
            if blocker is None:
                able.append(replica)
                continue
            blockers.append(blocker)
            if blocker.yields:
                yielding.append(replica)
        able.sort(key=self._worth)
        yielding.sort(key=lambda r: (r.state is ReplicaState.STARTING, r.changed_at, r.replica_id))
        return able, yielding, tuple(blockers)

    def _worth(self, replica: Replica) -> tuple[bool, float, str]:
        if self._is_idle(replica):
            return (False, replica.last_used_at, replica.replica_id)
        return (True, -rank_of_next(replica.model_id, self._snapshot, self._now), replica.replica_id)

    def _blocker(self, replica: Replica, rank: float) -> Blocker | None:
        """Why a replica may not be asked to leave; None when it may."""
        if self.is_pinned(replica.model_id):
            return Blocker(replica.replica_id, "pinned", replica.reserved_mib)
        if replica.state is ReplicaState.STARTING:
            yields = self._started_for_later(replica.model_id, rank)
            return Blocker(replica.replica_id, "starting", replica.reserved_mib, yields=yields)
        if self._is_idle(replica):
            return None
        outranked = rank < rank_of_next(replica.model_id, self._snapshot, self._now)
        rested = replica.changed_at + self._snapshot.rules.min_residency_seconds
        if outranked and rested <= self._now:
            return None
        due = [] if outranked else self._outranked_at(replica, rank)
        due += [rested] if rested > self._now else []
        until = min(due, default=None)
        return Blocker(replica.replica_id, "busy", replica.reserved_mib, until, yields=outranked)

    def _started_for_later(self, model_id: str, rank: float) -> bool:
        """Whether a starting replica's requests come after `rank`. One that nobody waits for will be idle anyway."""
        demand = self._snapshot.demands.get(model_id)
        intent = self._snapshot.intents.get(model_id)
        loaded = intent is not None and intent.load_since is not None
        return demand is not None and rank < demand.head_rank and not loaded

    def _outranked_at(self, replica: Replica, rank: float) -> list[float]:
        """When a steadily served model's next arrival falls behind `rank`; never while its own line is ahead."""
        if replica.model_id in self._snapshot.demands:
            return []
        spec = self._snapshot.models[replica.model_id]
        # Just after, so that the comparison is strict when the loop wakes.
        return [rank + spec.priority * self._snapshot.rules.ageing_seconds_per_point + 0.001]

    def _staying(self, device_id: str) -> list[Replica]:
        return [
            r
            for r in self._snapshot.replicas.values()
            if r.holds_memory and r.device_id == device_id and r.replica_id not in self._leaving
        ]

    def _is_idle(self, replica: Replica) -> bool:
        unused = not self._snapshot.leases.get(replica.replica_id)
        return unused and replica.model_id not in self._snapshot.demands

    def _no_room(self, device_id: str, model_id: str, need_mib: int, blockers: tuple[Blocker, ...]) -> Wait:
        return Wait(
            WaitKind.NO_ROOM,
            model_id,
            device_id=device_id,
            need_mib=need_mib,
            free_mib=max(0, self._accounts[device_id].free_now_mib),
            until=min((b.until for b in blockers if b.until is not None), default=None),
            blockers=blockers,
        )

    def _count(self, replica: Replica) -> None:
        account = self._accounts.get(replica.device_id)
        if account is None or not replica.holds_memory:
            return
        account.booked_mib += replica.reserved_mib
        account.starting += replica.state is ReplicaState.STARTING
        unknown = replica.model_id not in self._snapshot.models
        if replica.state is ReplicaState.STOPPING or replica.cordoned or unknown:
            self._count_leaving(replica)

    def _count_leaving(self, replica: Replica) -> None:
        self._leaving.add(replica.replica_id)
        account = self._accounts.get(replica.device_id)
        if account is not None and replica.replica_id not in account.leaving:
            account.leaving.append(replica.replica_id)
            account.leaving_mib += replica.reserved_mib


def _mib(replicas: Iterable[Replica]) -> int:
    return sum(r.reserved_mib for r in replicas)


def _woken_by_any(offer: Offer, offers: list[Offer]) -> Offer:
    """What keeps it from one device may pass sooner on another."""
    if offer.wait is None:
        return offer
    times = [o.wait.until for o in offers if o.wait is not None and o.wait.until is not None]
    return replace(offer, wait=replace(offer.wait, until=min(times, default=None)))


def _fewest(candidates: list[Replica], missing_mib: int) -> list[Replica]:
    """From the front until enough; then those that turned out not to be needed are spared."""
    chosen: list[Replica] = []
    for replica in candidates:
        if missing_mib <= _mib(chosen):
            break
        chosen.append(replica)
    for replica in list(reversed(chosen)):
        if _mib(chosen) - replica.reserved_mib >= missing_mib:
            chosen.remove(replica)
    return chosen
