"""The words of the domain as values: models, replicas, requests, devices, demands.

Values only: nothing here decides, waits or does I/O. Times are seconds on the
clock that the loop passes in; memory is MiB; priority is 0 to 100, higher first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

DEFAULT_PRIORITY = 50
BACKGROUND_PRIORITY = 0


class InferenceType(StrEnum):
    """The kinds of inference, by the values the product was specified with."""

    TEXT2TEXT = "text2text"
    TEXT2IMAGE = "text2image"
    IMAGE2TEXT = "image2text"
    IMAGE_PROCESSING = "image_processing"
    EMBEDDING = "embedding"


class RequestStatus(StrEnum):
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Outcome(StrEnum):
    """How an attempt or a request ended; only FAILED spends an attempt."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    INTERRUPTED = "interrupted"

    @property
    def status(self) -> RequestStatus:
        return _STATUS_OF_OUTCOME[self]


_STATUS_OF_OUTCOME = {
    Outcome.SUCCEEDED: RequestStatus.COMPLETE,
    Outcome.FAILED: RequestStatus.FAILED,
    Outcome.CANCELLED: RequestStatus.CANCELLED,
    Outcome.EXPIRED: RequestStatus.EXPIRED,
    Outcome.INTERRUPTED: RequestStatus.FAILED,
}


class ReplicaState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


HOLDS_MEMORY = frozenset({ReplicaState.STARTING, ReplicaState.READY, ReplicaState.ASLEEP, ReplicaState.STOPPING})


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One configured model, as far as decisions need to know it.

    `vram_mib` is what a replica reserves on one device. `idle_timeout_seconds`
    None means: stays until the room is wanted.
    """

    model_id: str
    types: tuple[InferenceType, ...]
    vram_mib: int
    max_concurrency: int
    priority: int = DEFAULT_PRIORITY
    pinned: bool = False
    min_replicas: int = 0
    idle_timeout_seconds: float | None = None
    loading_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica as its row describes it.

    `generation` grows at every start and guards late reports: a fact about
    another generation is stale. `changed_at` is when the state was entered.
    `cordoned_for` names the model that is waiting for this replica's room, or is
    empty for an unload by the operator. `revive`: it died while serving, so it
    comes back without being asked.
    """

    replica_id: str
    model_id: str
    generation: int
    state: ReplicaState
    device_id: str
    reserved_mib: int
    changed_at: float
    cordoned_for: str | None = None
    healthy: bool = True
    last_used_at: float = 0.0
    phase: str = ""
    failures: int = 0
    retry_at: float = 0.0
    failure_reason: str = ""
    revive: bool = False

    @property
    def holds_memory(self) -> bool:
        return self.state in HOLDS_MEMORY

    @property
    def cordoned(self) -> bool:
        return self.cordoned_for is not None

    @property
    def serves(self) -> bool:
        """Whether new leases may be granted on it."""
        return self.state is ReplicaState.READY and not self.cordoned and self.healthy


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What ordering needs to know of a request; its payload lives elsewhere.

    `rows` is how much of a batch it fills, `key` what it can share one with: see `batching`.
    """

    request_id: str
    model_id: str
    priority: int
    enqueued_at: float
    deadline_at: float | None = None
    rows: int = 1
    key: str = ""


@dataclass(frozen=True, slots=True)
class Demand:
    """All requests waiting for one model, as totals.

    `head_rank` is the virtual arrival (seconds) of the first in line: lower
    goes first, across models too.
    """

    waiting: int
    head_rank: float
    head_priority: int
    head_enqueued_at: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Room on a device being freed for one waiting model; nobody else takes it."""

    model_id: str
    device_id: str
    mib: int


@dataclass(frozen=True, slots=True)
class DeviceBudget:
    """A device and the memory on it that we may hand out."""

    device_id: str
    budget_mib: int


@dataclass(frozen=True, slots=True)
class Intent:
    """What the operator asked for at run time, over what the files say.

    `pinned` None leaves it to the file. `load_since` set: get a replica ready,
    making room as for the most urgent request.
    """

    pinned: bool | None = None
    load_since: float | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """The operator's scheduling parameters, in seconds."""

    ageing_seconds_per_point: float = 6.0
    min_residency_seconds: float = 20.0
    parallel_starts_per_device: int = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a plan may depend on. `leases` maps replica id to leases held."""

    models: Mapping[str, ModelSpec]
    devices: Mapping[str, DeviceBudget]
    replicas: Mapping[str, Replica] = field(default_factory=dict)
    leases: Mapping[str, int] = field(default_factory=dict)
    demands: Mapping[str, Demand] = field(default_factory=dict)
    holds: tuple[Hold, ...] = ()
    intents: Mapping[str, Intent] = field(default_factory=dict)
    rules: Rules = Rules()
