"""What every engine adapter offers: how to launch, probe, call and read one engine kind.

An adapter is pure except for `probe`, `sleep` and `wake`, which make small HTTP
calls to one replica. It knows nothing of queues, replicas' rows or the store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol

from adapters.endpoint import Endpoint
from adapters.tasks import Task, TaskCall, TaskResult

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class ModelLaunch:
    """A model as an engine has to know it. `budget_mib` is all the memory the process tree may use.

    `max_batch_size`: most requests that are computed together; None where the entry does not say.
    """

    model_id: str
    aliases: tuple[str, ...]
    types: tuple[str, ...]
    model_path: str
    budget_mib: int
    max_concurrency: int
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    max_batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where the replica will run: the device's kind, its index for CUDA_VISIBLE_DEVICES, its whole memory."""

    kind: Literal["host", "cuda"]
    index: int
    total_mib: int


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one replica.

    In `argv` and `env` values the runtime replaces the tokens `{python}` (the
    environment's interpreter), `{extras:NAME}` (a folder of packages that its
    recipe keeps aside), `{uds}`, `{host}` and `{port}`. `environment` is None
    for engines that run in the control plane's own interpreter.
    """

    environment: str | None
    argv: tuple[str, ...]
    env: Mapping[str, str]
    listen: Literal["unix", "tcp"]
    ready_timeout_seconds: float
    stop_grace_seconds: float


class Call(NamedTuple):
    """One call for an engine, as accepted at the door. `body` is passed on as it came.

    `kept`: the work belongs to its id and not to the connection; sent again, it is gone on with, not done twice.
    Engines that cannot do that do as ever.
    """

    method: str
    path: str
    body: bytes
    content_type: bytes
    request_id: str
    priority: int
    stream: bool
    trace_headers: Sequence[Header] = ()
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """One look at a replica.

    `running` and `progressed` come from the engine's own counters: a rising
    `progressed` proves that work moves; None where the engine does not tell.
    """

    ready: bool
    running: int | None = None
    waiting: int | None = None
    progressed: float | None = None
    detail: str = ""


class WorkProgress(NamedTuple):
    """`done` of `total`, in `unit`: "steps" or "images"."""

    done: int
    total: int
    unit: str


class Ending(StrEnum):
    """How a response ended, judged from its last bytes."""

    COMPLETE = "complete"
    ABORTED = "aborted"
    ERROR = "error"


class Verdict(NamedTuple):
    """Ending and token counts of a response; counts are None when it named none."""

    ending: Ending
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class NormalError:
    """An engine's error in OpenAI's terms. `retryable`: nothing was done, another try may succeed."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Batching:
    """How an engine computes requests together.

    `mode` "continuous": a request joins whenever a slot is free; "steps": a row
    joins at the next step and a lower one is put aside for a higher; "calls": a
    batch is one call. `batch_rows`: most rows together. `linger_seconds`: how long
    an idle engine waits for company before a call. `row_mib` of `spare_mib`: what
    a row takes of the memory left for rows; 0 where it is not known.
    """

    mode: Literal["continuous", "steps", "calls"]
    batch_rows: int
    linger_seconds: float = 0.0
    row_mib: int = 0
    spare_mib: int = 0


class EngineAdapter(Protocol):
    """One engine kind. Implementations hold no state."""

    @property
    def kind(self) -> str: ...

    def batching(self, model: ModelLaunch) -> Batching:
        """How this model's requests are computed together; `model.model_path` may still be empty."""
        ...

    def rows(self, path: str, fields: Mapping[str, object]) -> int:
        """How many rows of a batch a request fills, from its body's fields. Never raises, whatever they are."""
        ...

    def batch_key(self, path: str, fields: Mapping[str, object]) -> str:
        """Requests of one key can share a call. Never raises."""
        ...

    def serves(self, path: str) -> bool:
        """Whether the engine has this HTTP path."""
        ...

    def launch(self, model: ModelLaunch, target: Target) -> Launch:
        """Budget and options to command line. Raises `adapters.errors.LaunchError` when it cannot fit."""
        ...

    def task_call(self, task: Task, model_name: str) -> TaskCall:
        """The call that does a task with the model of that name. Raises `adapters.tasks.TaskRefused`."""
        ...

    def task_stream(self, call: TaskCall) -> TaskCall | None:
        """The same call with its answer as a stream that `ChatGathering` reads; None where that cannot be."""
        ...

    def task_result(self, task: Task, body: bytes) -> TaskResult:
        """What the good answer to that call says. Raises `adapters.errors.EngineProtocolError`."""
        ...

    async def progress(self, endpoint: Endpoint, request_id: str) -> WorkProgress | None:
        """How far the engine is with a request; None where it does not tell. Never raises."""
        ...

    async def end(self, endpoint: Endpoint, request_id: str) -> None:
        """Have work given up that is `kept`, whoever asked for it. Harmless where there is none. Never raises."""
        ...

    async def probe(self, endpoint: Endpoint) -> Probe:
        """Look once; an unreachable replica is `ready=False`, never an exception."""
        ...

    def headers(self, call: Call) -> list[Header]:
        """Request headers for the engine (host, content type, id, priority in the engine's sense)."""
        ...

    def error(self, status: int, body: bytes) -> NormalError:
        """Map an error response. Never raises, whatever the body holds."""
        ...

    def verdict(self, tail: bytes, *, stream: bool) -> Verdict:
        """Judge a finished response by its last bytes (up to 8 KiB; a whole body when it is smaller)."""
        ...

    def cold_phase(self, log_lines: Sequence[str]) -> str:
        """How far a start has come, in words for people, from the log so far (newest line last)."""
        ...

    def failure(self, log_lines: Sequence[str]) -> str:
        """The cause of a failed start in one sentence, from the end of its log (newest line last)."""
        ...
