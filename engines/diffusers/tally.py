"""What a batcher counts, and the window that both batchers show to the worker."""

from dataclasses import dataclass
from typing import Protocol

from engines.diffusers.jobs import ImageJob, JobEvent, OnEvent


@dataclass(slots=True)
class Tally:
    """Since the start. `rows_total`: jobs times denoiser calls; with guidance a job's rows are two inside one call."""

    steps_total: int = 0
    rows_total: int = 0
    images_total: int = 0
    displaced_total: int = 0
    out_of_memory_total: int = 0


class Batcher(Protocol):
    """Decides and does one thing at a time, in the worker's thread."""

    tally: Tally

    @property
    def running(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    def add(self, job: ImageJob, on_event: OnEvent) -> None: ...

    def cancel(self, job_id: str) -> None:
        """Between steps; reports Cancelled, unless the job is unknown."""
        ...

    def end_all(self, event: JobEvent) -> None:
        """Every job ends with this event."""
        ...

    def advance(self) -> bool:
        """Do the next piece of work; False when there is none."""
        ...
