"""From a job to a session of its pipeline: its own copy, scheduler, seed and reports. Decides no order."""

import inspect
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL.Image import Image

from engines.diffusers import previews
from engines.diffusers.encodings import Encodings
from engines.diffusers.families.rows import RowFamily
from engines.diffusers.faults import InvalidJob
from engines.diffusers.jobs import ImageJob, OnEvent, Preview, Stepped
from engines.diffusers.order import Place
from engines.diffusers.pipelines import Pipelines, call_arguments, copy_for_one_job, parameters
from engines.diffusers.schedulers import Schedulers
from engines.diffusers.session import DenoiserCall, Session, StandIn


@dataclass(slots=True, eq=False)
class Run:
    """One job from its arrival to its end. `together`: how many were in its last denoiser call."""

    job: ImageJob
    place: Place
    emit: OnEvent
    session: Session | None = None
    key: Hashable = None
    done: int = 0
    total: int = 0
    together: int = 0
    latents: torch.Tensor | None = None
    heading: previews.Heading | None = None
    previews_sent: int = 0

    @property
    def decodes_next(self) -> bool:
        """The next step is followed by the decoder, which takes more memory than any step."""
        total = self.total or max(1, int(self.job.steps * (self.job.strength if self.job.image else 1)))
        return self.done + 1 in (total, *previews.due_after(total, self.job.preview_count))


class Preparation:
    """Makes sessions. `scheduler`: the name used where a job names none; None: the pipeline's own."""

    def __init__(
        self, pipelines: Pipelines, family: RowFamily, encodings: Encodings, scheduler: str | None = None
    ) -> None:
        self.family = family
        self._denoiser = getattr(pipelines.draw, family.denoiser)
        self._compiled = getattr(self._denoiser, "_compiled_call_impl", None) is not None
        self._pipelines = pipelines
        self._encodings = encodings
        self._schedulers = Schedulers(pipelines.draw, scheduler)
        self._offloads = bool(getattr(pipelines.draw, "_all_hooks", None))
        named = inspect.signature(type(self._denoiser).forward).parameters
        self._stand_in = StandIn(self._denoiser, tuple(name for name in named if name != "self"))

    def start(self, run: Run) -> None:
        """To the first denoiser call. Raises InvalidJob, or whatever the pipeline raises."""
        own, arguments = self._call(run)
        if self._offloads:
            # accelerate would leave the denoiser on the device beside the text encoder.
            self._pipelines.draw.maybe_free_model_hooks()
        run.session = Session(lambda: _first_image(own(**arguments)))
        try:
            run.session.start()
        except ValueError as error:
            # Before the first step, a pipeline raises it for nothing but its arguments.
            raise InvalidJob(str(error), None) from error

    def denoise(self, call: DenoiserCall) -> Any:
        """The denoiser's answer for all rows of a call."""
        if self._compiled:
            # Batches grow and shrink all the time: one compilation serves them all, but for a single row.
            for tensor in self.family.row_tensors(call):
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return self._denoiser(**call.arguments)

    def _call(self, run: Run) -> tuple[Any, dict[str, Any]]:
        """A copy of the pipeline with the job's own scheduler and no denoiser, and what to call it with."""
        job = run.job
        pipeline = self._pipelines.use(job)
        scheduler = self._schedulers.fresh(job.scheduler)
        if job.preview_count:
            run.heading = previews.Heading(scheduler)
        asked = call_arguments(pipeline, job) | self.family.arguments(pipeline, job)
        asked["callback_on_step_end"] = partial(self._stepped, run)
        own = copy_for_one_job(
            pipeline,
            scheduler=scheduler,
            encode_prompt=self._encodings.before(pipeline),
            maybe_free_model_hooks=_leave_on_device,
            **{self.family.denoiser: self._stand_in},
        )
        known = parameters(pipeline)
        return own, {name: value for name, value in asked.items() if name in known}

    def _stepped(self, run: Run, pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Called by the pipeline after each of its steps."""
        run.latents = tensors["latents"]
        run.done, run.total = step + 1, pipeline.num_timesteps
        run.emit(Stepped(run.done, run.total, run.together))
        if run.heading is not None and run.done in previews.due_after(run.total, run.job.preview_count):
            image = previews.decoded(self.family, pipeline, run.heading.latents(), run.job)
            run.emit(Preview(run.previews_sent, image))
            run.previews_sent += 1
        return {}


def _leave_on_device() -> None:
    """A pipeline's end is nobody else's: other jobs go on with the same weights."""


def _first_image(output: Any) -> Image:
    image: Image = output.images[0]
    return image
