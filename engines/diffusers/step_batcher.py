"""Step-level batching: jobs join and leave between any two denoiser calls, each with its own scheduler and guidance.

It starts sessions, asks order.py who goes together, makes the call, and gives every session its part of the answer.
"""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch

from engines.diffusers.batch import denoise_together
from engines.diffusers.faults import Fault, attempt
from engines.diffusers.jobs import Cancelled, FailureKind, Finished, ImageJob, JobEvent, OnEvent
from engines.diffusers.limits import RowLimits
from engines.diffusers.memory import Memory
from engines.diffusers.order import Claim, Place, displaced, next_call, to_start
from engines.diffusers.runs import Preparation, Run
from engines.diffusers.session import DenoiserCall
from engines.diffusers.tally import Tally

# Jobs started per row of a call: others of another key, or displaced, wait with their noise and text at hand.
_STARTED_PER_ROW = 2


class StepBatcher:
    """For one thread. At most `max_rows` jobs go through the denoiser together."""

    def __init__(self, preparation: Preparation, memory: Memory, max_rows: int) -> None:
        self._preparation = preparation
        self._family = preparation.family
        self._memory = memory
        self._max_rows = max_rows
        self._limits = RowLimits(max_rows)
        self._runs: dict[Place, Run] = {}
        self._arrivals = 0
        self._last: tuple[Place, ...] = ()
        self.tally = Tally()

    @property
    def running(self) -> int:
        return sum(run.session is not None for run in self._runs.values())

    @property
    def waiting(self) -> int:
        return len(self._runs) - self.running

    def add(self, job: ImageJob, on_event: OnEvent) -> None:
        self._arrivals += 1
        place = Place(job.priority, self._arrivals)
        self._runs[place] = Run(job, place, on_event)

    def cancel(self, job_id: str) -> None:
        for run in [run for run in self._runs.values() if run.job.job_id == job_id]:
            self._leave(run)
            run.emit(Cancelled())

    def end_all(self, event: JobEvent) -> None:
        for run in list(self._runs.values()):
            self._leave(run)
            run.emit(event)

    def latents(self, job_id: str) -> torch.Tensor | None:
        """A running job's latents after its last step."""
        return next((run.latents for run in self._runs.values() if run.job.job_id == job_id), None)

    def advance(self) -> bool:
        """Start who may start, then make one denoiser call."""
        if not self._runs:
            return False
        self._start()
        chosen = self._choose()
        if chosen:
            self._serve([self._runs[claim.place] for claim in chosen], chosen[0].key)
        return True

    def _start(self) -> None:
        waiting = [place for place, run in self._runs.items() if run.session is None]
        started = [place for place, run in self._runs.items() if run.session is not None]
        for place in to_start(waiting, started, self._max_rows * _STARTED_PER_ROW):
            run = self._runs[place]
            self._move(run, "start", partial(self._preparation.start, run))

    def _choose(self) -> tuple[Claim, ...]:
        claims = [Claim(place, run.key) for place, run in self._runs.items() if run.session is not None]
        chosen = next_call(claims, self._max_rows)
        if chosen:
            chosen = chosen[: self._limits.of(chosen[0].key)]
        places = tuple(claim.place for claim in chosen)
        self.tally.displaced_total += len(displaced(self._last, places, self._runs.keys()))
        self._last = places
        return chosen

    def _serve(self, runs: list[Run], key: Hashable) -> None:
        calls = [run.session.call for run in runs if run.session is not None and run.session.call is not None]
        answers = denoise_together(self._family, self._denoise, calls, partial(self._did_not_fit, key))
        self._limits.fitted(key, len(calls))
        self.tally.steps_total += 1
        self.tally.rows_total += len(calls)
        for run, answer in zip(runs, answers, strict=True):
            run.together = len(calls)
            if isinstance(answer, Fault):
                self._fail(run, answer)
            elif run.session is not None:
                self._move(run, "decode" if run.decodes_next else "step", partial(run.session.resume, answer))

    def _move(self, run: Run, phase: str, move: Callable[[], None]) -> None:
        """Let the session run on; then it is at its next call, over, or failed."""
        shape = (phase, run.job.width, run.job.height, run.job.image is None, run.job.mask is None)
        fault = attempt(lambda: self._memory.within(shape, move))
        if isinstance(fault, Fault):
            self._fail(run, fault)
            return
        assert run.session is not None
        if run.session.call is not None:
            run.key = self._family.key(run.session.call, run.job)
            return
        assert run.session.image is not None
        del self._runs[run.place]
        self.tally.images_total += 1
        run.emit(Finished(run.session.image))

    def _denoise(self, call: DenoiserCall) -> Any:
        shape = (self._family.rows(call), self._family.shape(call))
        return self._memory.within(shape, lambda: self._preparation.denoise(call))

    def _did_not_fit(self, key: Hashable, rows: int) -> None:
        self._limits.did_not_fit(key, rows)
        self.tally.out_of_memory_total += 1
        self._memory.release()

    def _fail(self, run: Run, fault: Fault) -> None:
        if fault.kind is FailureKind.OUT_OF_MEMORY:
            self._memory.release()
        self._leave(run)
        run.emit(fault.failed())

    def _leave(self, run: Run) -> None:
        self._runs.pop(run.place, None)
        if run.session is not None:
            run.session.abandon()
