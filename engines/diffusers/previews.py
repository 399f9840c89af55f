"""Partial images: at which steps they are due, where the latents are heading by then, and their decoding."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from PIL.Image import Image

from engines.diffusers.families.rows import RowFamily
from engines.diffusers.jobs import ImageJob


def due_after(steps: int, count: int) -> tuple[int, ...]:
    """After which steps, evenly spaced and never after the last; fewer than `count` where steps are few. Pure."""
    return tuple(sorted({steps * (index + 1) // (count + 1) for index in range(count)} - {0, steps}))


class Heading:
    """Listens to one job's scheduler. Half-way latents are mostly noise; what the denoiser makes of them is not."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._last: tuple[torch.Tensor, Any, torch.Tensor] | None = None
        step = scheduler.step

        @wraps(step)
        def heard(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *rest: Any, **named: Any) -> Any:
            self._last = (model_output, timestep, sample)
            return step(model_output, timestep, sample, *rest, **named)

        scheduler.step = heard

    def latents(self) -> torch.Tensor:
        """The image that the last step foresaw."""
        assert self._last is not None
        return without_noise(self._scheduler, *self._last)


def without_noise(scheduler: Any, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> torch.Tensor:
    """`sample` less the noise that the denoiser found in it, by what the scheduler says its output means."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return sample - float(timestep) / scheduler.config.num_train_timesteps * model_output
    kept = scheduler.alphas_cumprod[round(float(timestep))].to(sample.device, sample.dtype)
    # Euler's relatives let the noise grow over a constant image; the others shrink the image as the noise grows.
    shrunk = sample * kept**0.5 if float(scheduler.init_noise_sigma) > 1 else sample
    meaning = scheduler.config.prediction_type
    if meaning == "sample":
        return model_output
    if meaning == "v_prediction":
        return kept**0.5 * shrunk - (1 - kept) ** 0.5 * model_output
    return (shrunk - (1 - kept) ** 0.5 * model_output) / kept**0.5


def decoded(family: RowFamily, pipeline: Any, latents: torch.Tensor, job: ImageJob) -> Image:
    """The first image of `latents`, decoded as the pipeline does at its end."""
    with _wide_enough(pipeline.vae) as vae:
        ready = family.latents(pipeline, latents, job).to(vae.dtype)
        sample = vae.decode(ready, return_dict=False)[0]
    if sample.ndim == 5:
        sample = sample[:, :, 0]
    image: Image = pipeline.image_processor.postprocess(sample, output_type="pil")[0]
    return image


@contextmanager
def _wide_enough(vae: Any) -> Iterator[Any]:
    """SDXL's first decoder overflows in half precision and says so in its configuration."""
    overflows = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if overflows:
        vae.to(dtype=torch.float32)
    try:
        yield vae
    finally:
        if overflows:
            vae.to(dtype=torch.float16)
