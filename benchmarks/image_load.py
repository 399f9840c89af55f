"""Drives a pipeline's worker with drawings: arriving by chance whatever happens, or from clients that wait for each.

Notes when each was asked for, when its steps ended and when it was there. Judges nothing.
"""

import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engines.diffusers.jobs import Cancelled, Failed, Finished, ImageJob, JobEvent, PipelineWorker, Stepped

MakeJob = Callable[[int], ImageJob]


class DrawingFailed(Exception):
    """A drawing ended otherwise than with an image, so the figures would mean nothing."""


@dataclass(slots=True)
class Drawing:
    """One drawing's times, in seconds of the performance clock; `together` are the rows of each of its steps."""

    asked_at: float
    stepped_at: list[float] = field(default_factory=list)
    together: list[int] = field(default_factory=list)
    ended_at: float = 0.0
    trouble: str = ""

    @property
    def seconds(self) -> float:
        return self.ended_at - self.asked_at

    @property
    def waited_steps(self) -> float:
        """From being asked for until its first step began, in steps of its own length."""
        lengths = [after - before for before, after in zip(self.stepped_at, self.stepped_at[1:], strict=False)]
        step = statistics.median(lengths)
        return max(0.0, (self.stepped_at[0] - self.asked_at) / step - 1)


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one load on one worker."""

    per_second: float
    mean_seconds: float
    p95_seconds: float
    mean_wait_steps: float
    p95_wait_steps: float
    mean_rows: float


class Studio:
    """Sends jobs to one worker and hears how they end."""

    def __init__(self, worker: PipelineWorker, job: MakeJob) -> None:
        self._worker = worker
        self._job = job
        self._drawings: list[Drawing] = []
        self._open = 0
        self._changed = threading.Condition()

    def arriving(self, gaps: Sequence[float]) -> Run:
        """One after each gap, in seconds, however many are under way."""
        due = time.perf_counter()
        for number, gap in enumerate(gaps):
            due += gap
            time.sleep(max(0.0, due - time.perf_counter()))
            self._ask(number)
        return self._summary()

    def clients(self, count: int, drawings: int) -> Run:
        """So many clients, each asking for its next when it has its last, until so many were asked for."""
        for number in range(drawings):
            with self._changed:
                self._changed.wait_for(lambda: self._open < count)
            self._ask(number)
        return self._summary()

    def _ask(self, number: int) -> None:
        drawing = Drawing(time.perf_counter())
        self._drawings.append(drawing)
        with self._changed:
            self._open += 1
        self._worker.submit(self._job(number), lambda event: self._heard(drawing, event))

    def _heard(self, drawing: Drawing, event: JobEvent) -> None:
        now = time.perf_counter()
        if isinstance(event, Stepped):
            drawing.stepped_at.append(now)
            drawing.together.append(event.batch)
        elif isinstance(event, Finished | Failed | Cancelled):
            drawing.ended_at = now
            drawing.trouble = "" if isinstance(event, Finished) else str(event)
            with self._changed:
                self._open -= 1
                self._changed.notify()

    def _summary(self) -> Run:
        with self._changed:
            self._changed.wait_for(lambda: self._open == 0)
        done, self._drawings = self._drawings, []
        trouble = next((drawing.trouble for drawing in done if drawing.trouble), "")
        if trouble:
            raise DrawingFailed(trouble)
        lasted = max(d.ended_at for d in done) - min(d.asked_at for d in done)
        return Run(
            per_second=len(done) / lasted,
            mean_seconds=statistics.fmean(d.seconds for d in done),
            p95_seconds=_p95([d.seconds for d in done]),
            mean_wait_steps=statistics.fmean(d.waited_steps for d in done),
            p95_wait_steps=_p95([d.waited_steps for d in done]),
            mean_rows=statistics.fmean(rows for d in done for rows in d.together),
        )


def gaps(per_second: float, count: int, seed: int) -> list[float]:
    """The pauses of a Poisson process; the same for the same seed."""
    chance = random.Random(seed)
    return [chance.expovariate(per_second) for _ in range(count)]


def _p95(figures: Sequence[float]) -> float:
    return statistics.quantiles(figures, n=20, method="inclusive")[-1]
