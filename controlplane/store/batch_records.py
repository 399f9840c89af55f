"""What the store takes in and gives back of files and batches, as immutable values. Times are unix seconds (UTC)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from controlplane.core.model import Outcome
from controlplane.store.records import JobDraft


class Purpose(StrEnum):
    """What a file is for, in OpenAI's words."""

    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"


class BatchStatus(StrEnum):
    """In OpenAI's words."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


OVER = frozenset({BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file; its content lies in the files folder."""

    file_id: str
    client: str | None
    purpose: Purpose
    filename: str
    bytes: int
    created_at: float
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class LineProblem:
    """Why a batch failed before it began: what is wrong in which line of its file (from 1), or with all of it."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch. `stamps`: when it came to each state; `read_lines` and `read_bytes`: how much of its file is taken.

    `failed` counts everything that goes to the error file.
    """

    batch_id: str
    client: str | None
    endpoint: str
    input_file_id: str
    created_at: float
    expires_at: float
    status: BatchStatus = BatchStatus.VALIDATING
    stamps: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    errors: Sequence[LineProblem] = ()
    total: int = 0
    completed: int = 0
    failed: int = 0
    read_lines: int = 0
    read_bytes: int = 0
    output_expires_seconds: int = 30 * 86400
    output_file_id: str | None = None
    error_file_id: str | None = None


class TakenLine(NamedTuple):
    """A line of the input as it is taken: a job, or what the door answered instead (status and body)."""

    custom_id: str
    draft: JobDraft | None = None
    refusal: tuple[int, bytes] | None = None


class Taking(NamedTuple):
    """The next lines of a batch, from the byte where the last ones ended to `end`."""

    batch_id: str
    begin: int
    end: int
    lines: Sequence[TakenLine]


class LineEnd(NamedTuple):
    """What came of a line: `n` counts lines from 1. `outcome` None: refused at the door, or not ended."""

    n: int
    custom_id: str
    request_id: str | None
    http_status: int | None
    body: bytes | None
    outcome: Outcome | None
    error_code: str | None
    error_message: str | None


class BatchEnd(NamedTuple):
    """The end of a batch, with the files that it came to."""

    batch_id: str
    status: BatchStatus
    at: float
    completed: int
    failed: int
    output: FileRecord | None = None
    errors: FileRecord | None = None
