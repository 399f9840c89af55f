"""A loaded pipeline in its three uses (from text, from an image, inside a mask), and what it can do."""

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch

from engines.diffusers import schedulers
from engines.diffusers.faults import InvalidJob
from engines.diffusers.jobs import ImageJob, PipelineFacts
from engines.diffusers.options import EngineOptions


@dataclass(frozen=True, slots=True)
class Pipelines:
    """`edit` and `inpaint` are None where diffusers has no such pipeline for these weights."""

    draw: Any
    edit: Any | None
    inpaint: Any | None

    def use(self, job: ImageJob) -> Any:
        """The pipeline for this job; InvalidJob where there is none."""
        if job.image is None:
            return self.draw
        if job.mask is None:
            return _present(self.edit, "image", "this model draws from text only")
        return _present(self.inpaint, "mask", "this model cannot draw inside a mask")

    def each(self) -> tuple[Any, ...]:
        return tuple(pipeline for pipeline in (self.draw, self.edit, self.inpaint) if pipeline is not None)


def copy_for_one_job(pipeline: Any, **replaced: Any) -> Any:
    """The same weights, its own state; `replaced` names components and methods that this copy does otherwise."""
    own = copy.copy(pipeline)
    # Past diffusers' own __setattr__, which would write the replacement into the shared configuration.
    own.__dict__.update(replaced)
    return own


def call_arguments(pipeline: Any, job: ImageJob) -> dict[str, Any]:
    """What every pipeline takes from a job, less what this one's `__call__` does not name."""
    _check(pipeline, job)
    wanted = {
        "prompt": job.prompt,
        "height": job.height,
        "width": job.width,
        "num_inference_steps": job.steps,
        # On the CPU, so that a seed means the same noise on every device.
        "generator": torch.Generator("cpu").manual_seed(job.seed),
        "image": job.image,
        "mask_image": job.mask,
        "strength": job.strength if job.image is not None else None,
    }
    known = parameters(pipeline)
    return {name: value for name, value in wanted.items() if value is not None and name in known}


def parameters(pipeline: Any) -> dict[str, Any]:
    """The parameters of `__call__` with their defaults."""
    return {name: each.default for name, each in inspect.signature(type(pipeline).__call__).parameters.items()}


def facts(pipelines: Pipelines, options: EngineOptions, batching: tuple[str, str], negative: bool) -> PipelineFacts:
    """`batching`: "step" or "call", and why; `negative`: a negative prompt has an effect."""
    draw = pipelines.draw
    defaults = parameters(draw)
    width, height = _own_size(draw)
    guidance = defaults.get("true_cfg_scale" if _guided_twice(draw) else "guidance_scale") or 0.0
    return PipelineFacts(
        pipeline=type(draw).__name__,
        batching=batching[0],
        batching_reason=batching[1],
        default_width=options.default_width or width,
        default_height=options.default_height or height,
        multiple_of=multiple_of(draw),
        default_steps=options.default_steps or int(defaults["num_inference_steps"]),
        default_guidance=float(guidance if options.default_guidance is None else options.default_guidance),
        schedulers=schedulers.names(draw),
        takes_negative_prompt=negative,
        takes_image=pipelines.edit is not None,
        takes_mask=pipelines.inpaint is not None,
    )


def multiple_of(pipeline: Any) -> int:
    """Pixels per latent, times the latents that a transformer takes as one patch."""
    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    return scale * 2 if getattr(pipeline, "transformer", None) is not None else scale


def _check(pipeline: Any, job: ImageJob) -> None:
    multiple = multiple_of(pipeline)
    if job.width % multiple or job.height % multiple:
        raise InvalidJob(f"{job.width}x{job.height} is no multiple of {multiple} on both sides", "size")
    if job.image is not None and int(job.steps * job.strength) < 1:
        raise InvalidJob(f"{job.steps} steps at strength {job.strength} are less than one step", "strength")


def _present(pipeline: Any | None, param: str, otherwise: str) -> Any:
    if pipeline is None:
        raise InvalidJob(otherwise, param)
    return pipeline


def _guided_twice(pipeline: Any) -> bool:
    """Qwen-Image names real guidance `true_cfg_scale`; its `guidance_scale` is for distilled models that nobody has."""
    return "Qwen" in type(pipeline).__name__


def _own_size(pipeline: Any) -> tuple[int, int]:
    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    size = getattr(pipeline, "default_sample_size", None)
    if size is None:
        denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
        size = getattr(getattr(denoiser, "config", None), "sample_size", None) or 1024 // scale
    height, width = (size, size) if isinstance(size, int) else size
    return width * scale, height * scale
