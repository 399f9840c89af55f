"""What effects report back: facts about one generation of one replica.

A fact changes a row by a lifecycle move and nothing else. Facts about another
generation are stale and fall away.
"""

from dataclasses import dataclass, replace

from adapters.endpoint import Endpoint
from controlplane.core import lifecycle
from controlplane.core.model import Replica, ReplicaState


@dataclass(frozen=True, slots=True)
class Phase:
    """How far a start has come, in words."""

    replica_id: str
    generation: int
    text: str


@dataclass(frozen=True, slots=True)
class Ready:
    """It answers. `took_seconds` counts from the decision to start; None for an adopted one."""

    replica_id: str
    generation: int
    endpoint: Endpoint
    handle: str
    took_seconds: float | None


@dataclass(frozen=True, slots=True)
class Failed:
    """Its start failed, or its process ended. `hopeless`: trying the same again is of no use."""

    replica_id: str
    generation: int
    reason: str
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class Sick:
    """It lives but does not work."""

    replica_id: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Well:
    """It was suspected, and answers."""

    replica_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Gone:
    """Every process of it is proved gone, and its memory back."""

    replica_id: str
    generation: int


Fact = Phase | Ready | Failed | Sick | Well | Gone


def learned(fact: Fact, replica: Replica, now: float, backoff: lifecycle.Backoff) -> Replica:
    """The row after the fact; the same row when the fact is no news in its state."""
    state = replica.state
    if isinstance(fact, Gone):
        return lifecycle.gone(replica, now) if state is ReplicaState.STOPPING else replica
    if isinstance(fact, Failed):
        alive = state in {ReplicaState.STARTING, ReplicaState.READY, ReplicaState.ASLEEP}
        return lifecycle.crashed(replica, fact.reason, now, backoff, hopeless=fact.hopeless) if alive else replica
    if isinstance(fact, Ready):
        return lifecycle.ready(replica, now) if state is ReplicaState.STARTING else replica
    if isinstance(fact, Sick):
        return lifecycle.unhealthy(replica, fact.reason) if state is ReplicaState.READY else replica
    if isinstance(fact, Phase) and state is ReplicaState.STARTING:
        return replace(replica, phase=fact.text)
    return replica
