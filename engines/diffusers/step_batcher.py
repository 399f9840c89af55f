"""Step-level batching: jobs join and leave between any two denoiser calls, each with its own scheduler and guidance.

It starts sessions, asks order.py who goes together, makes the call, and gives every session its part of the answer.
"""

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL.Image import Image

from engines.diffusers import previews, schedulers
from engines.diffusers.batch import denoise_together
from engines.diffusers.encodings import Encodings
from engines.diffusers.families.rows import RowFamily
from engines.diffusers.faults import Fault, InvalidJob, attempt
from engines.diffusers.jobs import Cancelled, FailureKind, Finished, ImageJob, JobEvent, OnEvent, Preview, Stepped
from engines.diffusers.limits import RowLimits
from engines.diffusers.memory import Memory
from engines.diffusers.order import Claim, Place, displaced, next_call, to_start
from engines.diffusers.pipelines import Pipelines, call_arguments, copy_for_one_job, parameters
from engines.diffusers.session import DenoiserCall, Session, StandIn
from engines.diffusers.tally import Tally

# Jobs started per row of a call: others of another key, or displaced, wait with their noise and text at hand.
_STARTED_PER_ROW = 2


@dataclass(slots=True, eq=False)
class Run:
    """One job from its arrival to its end."""

    job: ImageJob
    place: Place
    emit: OnEvent
    session: Session | None = None
    key: Hashable = None
    done: int = 0
    total: int = 0
    together: int = 0
    latents: torch.Tensor | None = None
    previews_sent: int = 0

    @property
    def decodes_next(self) -> bool:
        """The next step is followed by the decoder, which takes more memory than any step."""
        total = self.total or max(1, int(self.job.steps * (self.job.strength if self.job.image else 1)))
        return self.done + 1 in (total, *previews.due_after(total, self.job.preview_count))


class StepBatcher:
    """`scheduler`: the name used where a job names none; None: the pipeline's own."""

    def __init__(
        self,
        pipelines: Pipelines,
        family: RowFamily,
        memory: Memory,
        encodings: Encodings,
        max_rows: int,
        scheduler: str | None = None,
    ) -> None:
        self._pipelines = pipelines
        self._family = family
        self._memory = memory
        self._encodings = encodings
        self._scheduler = scheduler
        self._max_rows = max_rows
        self._limits = RowLimits(max_rows)
        self._denoiser = getattr(pipelines.draw, family.denoiser)
        self._parameters = tuple(_forward_parameters(self._denoiser))
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
            fault = self._tried(run, "start", partial(self._prepare, run))
            if fault is not None:
                self._fail(run, fault)

    def _prepare(self, run: Run) -> None:
        run.session = Session(self._drawing(run))
        try:
            run.session.start()
        except ValueError as error:
            # Before the first step, a pipeline raises it for nothing but its arguments.
            raise InvalidJob(str(error), None) from error
        self._settle(run)

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
            else:
                self._resume(run, answer)

    def _resume(self, run: Run, answer: Any) -> None:
        fault = self._tried(run, "decode" if run.decodes_next else "step", partial(self._continue, run, answer))
        if fault is not None:
            self._fail(run, fault)

    def _continue(self, run: Run, answer: Any) -> None:
        assert run.session is not None
        run.session.resume(answer)
        self._settle(run)

    def _settle(self, run: Run) -> None:
        """After the session has moved: over with an image, or at its next call."""
        session = run.session
        assert session is not None
        if session.call is not None:
            run.key = self._family.key(session.call, run.job)
            return
        assert session.image is not None
        del self._runs[run.place]
        self.tally.images_total += 1
        run.emit(Finished(session.image))

    def _tried(self, run: Run, phase: str, action: Callable[[], None]) -> Fault | None:
        shape = (phase, run.job.width, run.job.height, run.job.image is None, run.job.mask is None)
        outcome = attempt(lambda: self._memory.within(shape, action))
        return outcome if isinstance(outcome, Fault) else None

    def _denoise(self, call: DenoiserCall) -> Any:
        shape = (self._family.rows(call), self._family.shape(call))
        return self._memory.within(shape, lambda: self._denoiser(**call.arguments))

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

    def _drawing(self, run: Run) -> Callable[[], Image]:
        """The pipeline's own call for this job, on a copy with its own scheduler and without the denoiser."""
        pipeline = self._pipelines.use(run.job)
        scheduler = self._own_scheduler(run.job)
        own = copy_for_one_job(
            pipeline,
            scheduler=scheduler,
            encode_prompt=self._encodings.before(pipeline),
            maybe_free_model_hooks=lambda: None,
            **{self._family.denoiser: StandIn(self._denoiser, self._parameters)},
        )
        known = parameters(pipeline)
        asked = call_arguments(pipeline, run.job) | self._family.arguments(pipeline, run.job)
        asked["callback_on_step_end"] = partial(self._stepped, run)
        arguments = {name: value for name, value in asked.items() if name in known}
        return lambda: _first_image(own(**arguments))

    def _own_scheduler(self, job: ImageJob) -> Any:
        name = job.scheduler or self._scheduler
        if name is not None and name not in schedulers.names(self._pipelines.draw):
            raise InvalidJob(f"this model cannot use the scheduler {name!r}", "scheduler")
        return schedulers.fresh(self._pipelines.draw, name)

    def _stepped(self, run: Run, pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Called by the pipeline after each of its steps."""
        run.latents = tensors["latents"]
        run.done, run.total = step + 1, pipeline.num_timesteps
        run.emit(Stepped(run.done, run.total, run.together))
        if run.done in previews.due_after(run.total, run.job.preview_count):
            image = previews.decoded(self._family, pipeline, run.latents, run.job)
            run.emit(Preview(run.previews_sent, image))
            run.previews_sent += 1
        return {}


def _first_image(output: Any) -> Image:
    image: Image = output.images[0]
    return image


def _forward_parameters(denoiser: Any) -> list[str]:
    return [name for name in inspect.signature(type(denoiser).forward).parameters if name != "self"]
