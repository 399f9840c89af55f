"""What the HTTP server hands to the worker of a pipeline, and what it hears back. Pure values; no torch here."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class ImageJob:
    """One image to make. A request for n images is n jobs, with ids `<request id>/<index>`.

    `priority` 0 to 100, higher first; `width` and `height` in pixels; `image` RGB and `mask` L (white is drawn anew),
    both already of that size; `strength` 0 to 1 says how much of `image` is given up; `preview_count` partial images
    are wanted on the way.
    """

    job_id: str
    priority: int
    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str | None
    seed: int
    image: Image | None = None
    mask: Image | None = None
    strength: float = 1.0
    preview_count: int = 0


class FailureKind(StrEnum):
    """Why a job failed: the caller's input, not enough memory, or the engine itself."""

    INVALID = "invalid"
    OUT_OF_MEMORY = "out_of_memory"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Stepped:
    """`done` of `total` denoising steps are over; `batch` rows went through the denoiser together."""

    done: int
    total: int
    batch: int


@dataclass(frozen=True, slots=True)
class Preview:
    """A partial image, numbered from 0."""

    index: int
    image: Image


@dataclass(frozen=True, slots=True)
class Finished:
    image: Image


@dataclass(frozen=True, slots=True)
class Failed:
    """`param` names the field at fault, where one is."""

    kind: FailureKind
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The job was cancelled before it finished."""


JobEvent = Stepped | Preview | Finished | Failed | Cancelled
OnEvent = Callable[[JobEvent], None]


@dataclass(frozen=True, slots=True)
class PipelineFacts:
    """What a loaded pipeline can do. `batching` is "step" or "call"; `batching_reason` says why not step by step.

    `multiple_of`: both sides of an image must be a multiple of it, in pixels.
    """

    pipeline: str
    batching: str
    batching_reason: str
    default_width: int
    default_height: int
    multiple_of: int
    default_steps: int
    default_guidance: float
    schedulers: tuple[str, ...]
    takes_negative_prompt: bool
    takes_image: bool
    takes_mask: bool


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """Counters since the start (`*_total`) and the present state. `displaced_total`: jobs put aside for higher ones."""

    running: int
    waiting: int
    steps_total: int
    rows_total: int
    images_total: int
    displaced_total: int
    out_of_memory_total: int
    memory_mib: int
    asleep: bool
    alive: bool


class PipelineWorker(Protocol):
    """One loaded pipeline and its one thread. Every method is thread-safe and returns at once."""

    @property
    def facts(self) -> PipelineFacts: ...

    def submit(self, job: ImageJob, on_event: OnEvent) -> None:
        """Queue a job. `on_event` is called from the worker's thread, last with Finished, Failed or Cancelled."""
        ...

    def cancel(self, job_id: str) -> None:
        """End a job at the next step; harmless when it is unknown or over."""
        ...

    def load(self) -> WorkerLoad: ...

    def sleep(self) -> "Future[None]":
        """After the running steps: weights to host memory, jobs wait until `wake_up`. Done when it is so."""
        ...

    def wake_up(self) -> "Future[None]": ...

    def close(self) -> None:
        """Cancel everything and end the thread; waits for it."""
        ...
