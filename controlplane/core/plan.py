"""What a plan is made of: actions, holds, and one wait reason per waiting model.

Values only. `apply` says what an action does to the rows, so that the loop and
the property tests share one meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from controlplane.core import lifecycle
from controlplane.core.model import Hold, Replica, ReplicaState


@dataclass(frozen=True, slots=True)
class StartReplica:
    replica_id: str
    model_id: str
    device_id: str
    reserve_mib: int


class StopReason(StrEnum):
    EVICTED = "evicted"
    IDLE = "idle"
    UNLOADED = "unloaded"
    UNHEALTHY = "unhealthy"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class StopReplica:
    replica_id: str
    reason: StopReason
    for_model: str = ""


@dataclass(frozen=True, slots=True)
class CordonReplica:
    """No new leases: `for_model` waits for its room."""

    replica_id: str
    for_model: str


@dataclass(frozen=True, slots=True)
class UncordonReplica:
    replica_id: str


Action = StartReplica | StopReplica | CordonReplica | UncordonReplica


class WaitKind(StrEnum):
    """Why a request waits; every waiting request has exactly one."""

    SLOT = "slot"
    LOADING = "loading"
    START_TURN = "start_turn"
    MAKING_ROOM = "making_room"
    YIELDING = "yielding"
    STOPPING = "stopping"
    BACKING_OFF = "backing_off"
    NO_ROOM = "no_room"


@dataclass(frozen=True, slots=True)
class Blocker:
    """A replica that keeps its room, and why: pinned, busy or starting; `until` when that changes by itself.

    `yields`: it is next to leave, once it has started or been up for its minimum residency.
    """

    replica_id: str
    why: str
    mib: int
    until: float | None = None
    yields: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """One model's wait reason with its numbers; `until` is a time when it changes by itself."""

    kind: WaitKind
    model_id: str
    replica_id: str = ""
    device_id: str = ""
    need_mib: int = 0
    free_mib: int = 0
    until: float | None = None
    others: tuple[str, ...] = ()
    blockers: tuple[Blocker, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """`holds` replaces the previous holds. `wake_at` is when a decision may change without any event."""

    actions: tuple[Action, ...] = ()
    holds: tuple[Hold, ...] = ()
    waits: Mapping[str, Wait] = field(default_factory=dict)
    wake_at: float | None = None


def apply(action: Action, replicas: Mapping[str, Replica], now: float, backoff: lifecycle.Backoff) -> Replica:
    """The row after the action. Raises IllegalMoveError when the plan contradicts the rows."""
    if isinstance(action, StartReplica):
        fresh = Replica(
            replica_id=action.replica_id,
            model_id=action.model_id,
            generation=0,
            state=ReplicaState.STARTING,
            device_id=action.device_id,
            reserved_mib=action.reserve_mib,
            changed_at=now,
        )
        return lifecycle.starting(replicas.get(action.replica_id), fresh, now)
    replica = replicas[action.replica_id]
    if isinstance(action, StopReplica):
        if action.reason is StopReason.UNHEALTHY:
            return lifecycle.crashed(replica, replica.failure_reason or "it is unhealthy", now, backoff)
        return lifecycle.stopping(replica, now)
    if isinstance(action, CordonReplica):
        return lifecycle.cordoned(replica, action.for_model)
    return lifecycle.uncordoned(replica)
