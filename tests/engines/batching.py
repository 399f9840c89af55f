"""How the batching tests draw: through a batcher in the test's own thread, and plainly by the pipeline itself."""

import inspect
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch

from engines.diffusers.encodings import Encodings
from engines.diffusers.families import family_of
from engines.diffusers.jobs import Cancelled, Failed, Finished, ImageJob, JobEvent, Preview, Stepped
from engines.diffusers.memory import HostMemory
from engines.diffusers.pipelines import Pipelines
from engines.diffusers.runs import Preparation
from engines.diffusers.schedulers import Schedulers
from engines.diffusers.step_batcher import StepBatcher


def job(name: str, **changed: Any) -> ImageJob:
    wanted: dict[str, Any] = {
        "priority": 50,
        "prompt": f"a prompt for {name}",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance": 3.0,
        "scheduler": None,
        "seed": sum(name.encode()),
    }
    return ImageJob(job_id=name, **(wanted | changed))


def three_uses(pipeline: Any) -> Pipelines:
    pipeline.set_progress_bar_config(disable=True)
    edit = diffusers.AutoPipelineForImage2Image.from_pipe(pipeline)
    inpaint = diffusers.AutoPipelineForInpainting.from_pipe(pipeline)
    for sibling in (edit, inpaint):
        sibling.set_progress_bar_config(disable=True)
    return Pipelines(pipeline, edit, inpaint)


@dataclass
class Studio:
    """A step batcher, what its jobs reported, and each job's latents after its last step."""

    pipelines: Pipelines
    max_rows: int = 8
    memory: HostMemory = field(default_factory=lambda: HostMemory(None))
    encodings: Encodings = field(default_factory=lambda: Encodings(64))
    events: dict[str, list[JobEvent]] = field(default_factory=dict)
    latents: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        family = family_of(type(self.pipelines.draw).__name__)
        assert family is not None
        self.batcher = StepBatcher(Preparation(self.pipelines, family, self.encodings), self.memory, self.max_rows)

    def add(self, asked: ImageJob) -> None:
        self.events[asked.job_id] = []
        self.batcher.add(asked, lambda event: self._on_event(asked.job_id, event))

    def finish(self) -> None:
        while self.batcher.advance():
            pass

    def draw(self, *jobs: ImageJob) -> list[torch.Tensor]:
        """Together, all from the first step."""
        for asked in jobs:
            self.add(asked)
        self.finish()
        return [self.drawn(asked.job_id) for asked in jobs]

    def drawn(self, job_id: str) -> torch.Tensor:
        last = self.events[job_id][-1]
        assert isinstance(last, Finished), last
        return self.latents[job_id]

    def batches(self, job_id: str) -> list[int]:
        """How many went together at each of a job's steps."""
        return [event.batch for event in self.events[job_id] if isinstance(event, Stepped)]

    def end(self, job_id: str) -> JobEvent | None:
        events = self.events[job_id]
        return events[-1] if events and not isinstance(events[-1], Stepped | Preview) else None

    def _on_event(self, job_id: str, event: JobEvent) -> None:
        assert not any(isinstance(earlier, Finished | Failed | Cancelled) for earlier in self.events[job_id])
        self.events[job_id].append(event)
        if isinstance(event, Stepped):
            latents = self.batcher.latents(job_id)
            assert latents is not None
            self.latents[job_id] = latents.clone()


def plain(pipelines: Pipelines, asked: ImageJob, **named: Any) -> torch.Tensor:
    """The latents of the pipeline's own call, with a scheduler of its own. `named`: arguments by the pipeline's names
    where they are not Stable Diffusion's."""
    uses = {(False, False): pipelines.draw, (True, False): pipelines.edit, (True, True): pipelines.inpaint}
    pipeline = uses[asked.image is not None, asked.mask is not None]
    assert pipeline is not None
    wanted = {
        "prompt": asked.prompt,
        "negative_prompt": asked.negative_prompt or None,
        "width": asked.width,
        "height": asked.height,
        "num_inference_steps": asked.steps,
        "guidance_scale": asked.guidance,
        "generator": torch.Generator("cpu").manual_seed(asked.seed),
        "image": asked.image,
        "mask_image": asked.mask,
        "strength": asked.strength,
        "output_type": "latent",
    } | named
    known = inspect.signature(type(pipeline).__call__).parameters
    own, pipeline.scheduler = pipeline.scheduler, Schedulers(pipelines.draw).fresh(asked.scheduler)
    try:
        return pipeline(**{name: value for name, value in wanted.items() if name in known}).images
    finally:
        pipeline.scheduler = own


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference."""
    return float((one.float() - other.float()).abs().max())
