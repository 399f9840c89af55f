"""What the store takes in and gives back, as immutable values.

Times are unix seconds (UTC), memory is MiB. The rows of the journal are named
tuples because the hot path builds them: a frozen dataclass costs four times more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from controlplane.core.model import InferenceType, Outcome, ReplicaState, RequestHead, RequestStatus

JsonValue = None | bool | int | float | str | list["JsonValue"] | Mapping[str, "JsonValue"]


class Mode(StrEnum):
    """Who waits for the result: the caller's connection, or a row."""

    SYNC = "sync"
    ASYNC = "async"


class LoadTier(StrEnum):
    """Where a load started from."""

    COLD = "cold"
    WAKE = "wake"


class AttemptRecord(NamedTuple):
    """One try at a request; `n` counts from 1. Unfinished while `finished_at` is None."""

    request_id: str
    n: int
    replica_id: str
    generation: int
    started_at: float
    finished_at: float | None = None
    outcome: Outcome | None = None
    error: str | None = None


class RequestAccepted(NamedTuple):
    """A call that passed the door. Keep it: the later rows of the same request carry it."""

    request_id: str
    path: str
    type: InferenceType
    model_id: str
    priority: int
    created_at: float
    client: str | None = None
    stream: bool = False
    deadline_at: float | None = None
    mode: Mode = Mode.SYNC


class RequestStarted(NamedTuple):
    """A request got a slot; for requests that run long enough to be worth seeing after a crash."""

    accepted: RequestAccepted
    attempt: AttemptRecord


class RequestFinished(NamedTuple):
    """How a request ended, with every attempt at it. `status` in the row follows from `outcome`."""

    accepted: RequestAccepted
    outcome: Outcome
    finished_at: float
    started_at: float | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    http_status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    wait_seconds: float | None = None
    first_byte_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class CallbackDraft:
    """Where the end of a job is to be told, and the name of the secret it is signed with."""

    url: str
    secret_name: str | None = None


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """A caller's key for one piece of work, and the digest of what it asked for under that key."""

    client: str | None
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class JobDraft:
    """A job at the door: its row, what to do, and what belongs to it.

    `rows` and `batch_key` are those of its head; `pictures` names the artifacts that `payload` refers to.
    """

    accepted: RequestAccepted
    payload: bytes
    callback: CallbackDraft | None = None
    tags: tuple[str, ...] = ()
    idempotency: IdempotencyClaim | None = None
    rows: int = 1
    batch_key: str = ""
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobStart:
    """A job whose try was begun; `tries` are the earlier ones, first try first."""

    accepted: RequestAccepted
    payload: bytes
    attempt: AttemptRecord
    tries: tuple[AttemptRecord, ...]


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended. `result`: the body of its answer, as JSON; `notice`: what its callback is told."""

    finished: RequestFinished
    result: bytes | None = None
    notice: bytes = b""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One row of the request history; `attempts` counts the tries."""

    request_id: str
    mode: Mode
    path: str
    type: InferenceType
    model_id: str
    priority: int
    status: RequestStatus
    outcome: Outcome | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    deadline_at: float | None
    client: str | None
    stream: bool
    attempts: int
    http_status: int | None
    error_code: str | None
    error_message: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    wait_seconds: float | None
    first_byte_seconds: float | None


@dataclass(frozen=True, slots=True)
class RequestHistory:
    """One request with its attempts, first try first."""

    request: RequestRecord
    attempts: tuple[AttemptRecord, ...]


@dataclass(frozen=True, slots=True)
class JobView:
    """A job's row, its attempts and its tags. What belongs to its payload is there while it is open."""

    history: RequestHistory
    tags: tuple[str, ...]
    callback_url: str | None
    rows: int
    batch_key: str

    @property
    def head(self) -> RequestHead:
        row = self.history.request
        return RequestHead(
            *(row.request_id, row.model_id, row.priority, row.created_at, row.deadline_at), self.rows, self.batch_key
        )

    @property
    def accepted(self) -> RequestAccepted:
        """The part of the row that never changes, but for the priority."""
        return RequestAccepted(*(getattr(self.history.request, name) for name in RequestAccepted._fields))


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which requests to list; None means any."""

    model_id: str | None = None
    status: RequestStatus | None = None
    outcome: Outcome | None = None
    client: str | None = None
    mode: Mode | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Requests, newest first. `next_cursor` None: there are no older ones."""

    requests: tuple[RequestRecord, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """One replica's row. `reserved_mib` None: it holds no reservation on its device."""

    replica_id: str
    model_id: str
    generation: int
    state: ReplicaState
    device_id: str
    config_hash: str
    created_at: float
    changed_at: float
    reserved_mib: int | None = None
    endpoint: str = ""
    handle: str = ""
    cordoned_for: str | None = None
    failures: int = 0
    retry_at: float = 0.0
    failure_reason: str = ""
    phase: str = ""
    ready_at: float | None = None
    last_used_at: float = 0.0
    revive: bool = False


class Event(NamedTuple):
    """An event on its way to the log, which gives it an id."""

    at: float
    kind: str
    subject: str
    detail: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class EventDraft:
    """What happened, to be written in the transaction of the change itself."""

    kind: str
    detail: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplicaChange:
    """Write `record` whole if the row still has `expected_generation` (None: if there is no row).

    The reservation becomes `record.reserved_mib`; `event` names the replica as its subject.
    """

    record: ReplicaRecord
    expected_generation: int | None
    event: EventDraft | None = None


@dataclass(frozen=True, slots=True)
class LoadTime:
    """How long loads of one model in one configuration take; `mean_seconds` leans to recent ones."""

    model_id: str
    config_hash: str
    tier: LoadTier
    samples: int
    mean_seconds: float
    peak_mib: int
    last_at: float


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One event of the log; ids grow and are never used again."""

    id: int
    at: float
    kind: str
    subject: str
    detail: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """How long rows may wait for the disk, and how many while the disk is away."""

    flush_seconds: float = 0.05
    flush_rows: int = 512
    max_rows: int = 50_000
    retry_seconds: float = 1.0
