"""Batching for pipelines that are not taken apart: jobs that agree on everything but prompt and seed share one call.

A job cannot join or be displaced once its call runs. A cancelled one is told at the next step; the call itself stops
when nobody is left in it.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image

from engines.diffusers import schedulers
from engines.diffusers.faults import Fault, InvalidJob, attempt
from engines.diffusers.jobs import Cancelled, FailureKind, Finished, ImageJob, JobEvent, OnEvent, Stepped
from engines.diffusers.memory import Memory
from engines.diffusers.order import Claim, Place, next_call
from engines.diffusers.pipelines import Pipelines, call_arguments, copy_for_one_job, parameters
from engines.diffusers.schedulers import Schedulers
from engines.diffusers.tally import Tally

# One value for the whole call; the rest of what `call_arguments` gives is one per job.
_COMMON = frozenset({"height", "width", "num_inference_steps", "strength"})


class _NobodyLeft(Exception):
    """Every job of the running call was cancelled."""


@dataclass(slots=True, eq=False)
class _Waiting:
    job: ImageJob
    place: Place
    emit: OnEvent


class CallBatcher:
    """`boundary` is called after every step of a running call, so that the worker hears of cancellations."""

    def __init__(
        self, pipelines: Pipelines, memory: Memory, max_rows: int, scheduler: str | None, boundary: Callable[[], None]
    ) -> None:
        self._pipelines = pipelines
        self._memory = memory
        self._max_rows = max_rows
        self._schedulers = Schedulers(pipelines.draw, scheduler)
        self._boundary = boundary
        self._runs: dict[Place, _Waiting] = {}
        self._calling: tuple[Place, ...] = ()
        self._arrivals = 0
        self.tally = Tally()

    @property
    def running(self) -> int:
        return sum(place in self._runs for place in self._calling)

    @property
    def waiting(self) -> int:
        return len(self._runs) - self.running

    def add(self, job: ImageJob, on_event: OnEvent) -> None:
        self._arrivals += 1
        place = Place(job.priority, self._arrivals)
        self._runs[place] = _Waiting(job, place, on_event)

    def cancel(self, job_id: str) -> None:
        for run in [run for run in self._runs.values() if run.job.job_id == job_id]:
            self._end(run, Cancelled())

    def end_all(self, event: JobEvent) -> None:
        for run in list(self._runs.values()):
            self._end(run, event)

    def advance(self) -> bool:
        claims = [Claim(place, _key(run.job)) for place, run in self._runs.items()]
        chosen = [self._runs[claim.place] for claim in next_call(claims, self._max_rows)]
        self._call(chosen)
        return bool(chosen)

    def _call(self, runs: Sequence[_Waiting]) -> None:
        """Together, or in halves where that takes too much memory."""
        runs = [run for run in runs if run.place in self._runs]
        if not runs:
            return
        self._calling = tuple(run.place for run in runs)
        shape = (len(runs), _key(runs[0].job))
        images = attempt(lambda: self._memory.within(shape, lambda: self._images(runs)))
        self._calling = ()
        if isinstance(images, Fault):
            self._failed(runs, images)
            return
        for run, image in zip(runs, images, strict=False):
            self.tally.images_total += run.place in self._runs
            self._end(run, Finished(image))

    def _failed(self, runs: Sequence[_Waiting], fault: Fault) -> None:
        if fault.kind is FailureKind.OUT_OF_MEMORY:
            self.tally.out_of_memory_total += 1
            self._memory.release()
        if len(runs) == 1:
            self._end(runs[0], fault.failed())
            return
        middle = len(runs) // 2
        self._call(runs[:middle])
        self._call(runs[middle:])

    def _images(self, runs: Sequence[_Waiting]) -> list[Image]:
        steps_before = self.tally.steps_total
        try:
            images: list[Image] = self._pipeline(runs)(**self._arguments(runs)).images
        except _NobodyLeft:
            return []
        except ValueError as error:
            if self.tally.steps_total > steps_before:
                raise
            # Before the first step, a pipeline raises it for nothing but its arguments.
            raise InvalidJob(str(error), None) from error
        finally:
            self._pipelines.draw.maybe_free_model_hooks()
        return images

    def _pipeline(self, runs: Sequence[_Waiting]) -> Any:
        job = runs[0].job
        pipeline = self._pipelines.use(job)
        if not schedulers.names(pipeline):
            return pipeline
        return copy_for_one_job(pipeline, scheduler=self._schedulers.fresh(job.scheduler))

    def _arguments(self, runs: Sequence[_Waiting]) -> dict[str, Any]:
        pipeline = self._pipelines.use(runs[0].job)
        known = parameters(pipeline)
        each = [call_arguments(pipeline, run.job) for run in runs]
        asked = {name: value if name in _COMMON else [one[name] for one in each] for name, value in each[0].items()}
        job = runs[0].job
        # Some would draw another size that they know better, and resize.
        asked["use_resolution_binning"] = False
        asked["guidance_scale"] = asked["true_cfg_scale"] = job.guidance
        if any(run.job.negative_prompt for run in runs):
            asked["negative_prompt"] = [run.job.negative_prompt for run in runs]
        asked["callback_on_step_end"] = lambda own, step, *_: self._stepped(runs, step, own)
        if "callback_on_step_end" not in known:
            asked["callback"] = lambda step, *_: self._stepped(runs, step, pipeline)
            asked["callback_steps"] = 1
        return {name: value for name, value in asked.items() if name in known}

    def _stepped(self, runs: Sequence[_Waiting], step: int, pipeline: Any) -> dict[str, torch.Tensor]:
        self.tally.steps_total += 1
        self.tally.rows_total += len(runs)
        total = max(getattr(pipeline, "_num_timesteps", 0) or runs[0].job.steps, step + 1)
        for run in runs:
            if run.place in self._runs:
                run.emit(Stepped(step + 1, total, len(runs)))
        self._boundary()
        if not any(run.place in self._runs for run in runs):
            raise _NobodyLeft
        return {}

    def _end(self, run: _Waiting, event: JobEvent) -> None:
        if self._runs.pop(run.place, None) is not None:
            run.emit(event)


def _key(job: ImageJob) -> Hashable:
    kind = (job.image is None, job.mask is None, job.strength if job.image is not None else None)
    return (job.width, job.height, job.steps, job.guidance, job.scheduler, bool(job.negative_prompt), kind)
