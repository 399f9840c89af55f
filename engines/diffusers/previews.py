"""Partial images: at which steps they are due, and a latent decoded as the pipeline would at its end."""

from typing import Any

import torch
from PIL.Image import Image

from engines.diffusers.families.rows import RowFamily
from engines.diffusers.jobs import ImageJob


def due_after(steps: int, count: int) -> tuple[int, ...]:
    """After which steps, evenly spaced and never after the last; fewer than `count` where steps are few. Pure."""
    return tuple(sorted({steps * (index + 1) // (count + 1) for index in range(count)} - {0, steps}))


def decoded(family: RowFamily, pipeline: Any, latents: torch.Tensor, job: ImageJob) -> Image:
    """The first image of `latents`, whose noise shows the more the earlier they are."""
    vae = pipeline.vae
    ready = family.latents(pipeline, latents, job).to(vae.dtype)
    sample = vae.decode(ready, return_dict=False)[0]
    if sample.ndim == 5:
        sample = sample[:, :, 0]
    image: Image = pipeline.image_processor.postprocess(sample, output_type="pil")[0]
    return image
