"""How a replica moves between states, as functions from row to row.

An illegal move is a broken invariant and raises. Whether to move is decided by
the planner; that a move happened is reported by the runtime.
"""

from dataclasses import dataclass, replace

from controlplane.core.model import Replica, ReplicaState

_MOVES: dict[ReplicaState, frozenset[ReplicaState]] = {
    ReplicaState.STARTING: frozenset({ReplicaState.READY, ReplicaState.STOPPING}),
    ReplicaState.READY: frozenset({ReplicaState.ASLEEP, ReplicaState.STOPPING}),
    ReplicaState.ASLEEP: frozenset({ReplicaState.READY, ReplicaState.STOPPING}),
    ReplicaState.STOPPING: frozenset({ReplicaState.STOPPED, ReplicaState.FAILED}),
    ReplicaState.STOPPED: frozenset({ReplicaState.STARTING}),
    ReplicaState.FAILED: frozenset({ReplicaState.STARTING}),
}


class IllegalMoveError(RuntimeError):
    """A replica was moved between states that do not follow each other."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off; a replica that served for `stable_seconds` starts over.

    After `patience` failures in a row nobody is kept waiting for it.
    """

    initial_seconds: float = 2.0
    max_seconds: float = 300.0
    stable_seconds: float = 60.0
    patience: int = 3

    def delay_seconds(self, failures: int) -> float:
        return min(self.max_seconds, self.initial_seconds * 2.0 ** min(failures - 1, 30))


def _move(replica: Replica, state: ReplicaState, now: float) -> Replica:
    if state not in _MOVES[replica.state]:
        raise IllegalMoveError(f"replica {replica.replica_id}: {replica.state} cannot become {state}")
    return replace(replica, state=state, changed_at=now)


def starting(previous: Replica | None, fresh: Replica, now: float) -> Replica:
    """Start `fresh`, keeping what its earlier lives taught (failures); a new generation begins."""
    if previous is None:
        return replace(fresh, generation=1, state=ReplicaState.STARTING, changed_at=now, last_used_at=now)
    moved = _move(previous, ReplicaState.STARTING, now)
    return replace(
        moved,
        generation=previous.generation + 1,
        device_id=fresh.device_id,
        reserved_mib=fresh.reserved_mib,
        cordoned_for=None,
        healthy=True,
        phase="",
        last_used_at=now,
    )


def ready(replica: Replica, now: float) -> Replica:
    return replace(_move(replica, ReplicaState.READY, now), phase="", revive=False, healthy=True, last_used_at=now)


def cordoned(replica: Replica, for_model: str) -> Replica:
    return replace(replica, cordoned_for=for_model)


def uncordoned(replica: Replica) -> Replica:
    return replace(replica, cordoned_for=None)


def unhealthy(replica: Replica, reason: str) -> Replica:
    """It lives but does not work; the planner replaces it."""
    return replace(replica, healthy=False, failure_reason=reason)


def stopping(replica: Replica, now: float) -> Replica:
    """On purpose: nothing is counted against it."""
    return replace(_move(replica, ReplicaState.STOPPING, now), failure_reason="", revive=False)


def crashed(replica: Replica, reason: str, now: float, backoff: Backoff, *, hopeless: bool = False) -> Replica:
    """It failed or was found dead. Its memory stays reserved until the runtime proves it gone.

    `hopeless`: the same start cannot succeed, so nobody should wait for more tries.
    """
    if replica.state is ReplicaState.STOPPING:
        return replica
    served = replica.state is ReplicaState.READY
    stable = served and now - replica.changed_at >= backoff.stable_seconds
    failures = 1 if stable else replica.failures + 1
    if hopeless:
        failures = max(failures, backoff.patience)
    return replace(
        _move(replica, ReplicaState.STOPPING, now),
        failures=failures,
        retry_at=now + backoff.delay_seconds(failures),
        failure_reason=reason or "it ended without a word",
        revive=(served or replica.revive) and replica.cordoned_for is None,
        phase="",
    )


def gone(replica: Replica, now: float) -> Replica:
    """Every process of it is proved gone: the reservation ends here and nowhere else."""
    state = ReplicaState.FAILED if replica.failure_reason else ReplicaState.STOPPED
    return replace(_move(replica, state, now), cordoned_for=None, reserved_mib=0, phase="")


def proved(replica: Replica) -> Replica:
    """It served a request well: earlier failures are forgotten."""
    return replace(replica, failures=0, retry_at=0.0, failure_reason="") if replica.failures else replica
