"""Stable Diffusion XL and Kolors: the UNet, told the image's size and a pooled text per row."""

from dataclasses import dataclass
from typing import Any

import torch

from engines.diffusers.families.rows import RowFamily
from engines.diffusers.families.sd import UNET
from engines.diffusers.jobs import ImageJob


@dataclass(frozen=True)
class SdxlFamily(RowFamily):
    """Some fine-tunes normalise their latents per channel."""

    def latents(self, pipeline: Any, latents: torch.Tensor, _job: ImageJob) -> torch.Tensor:
        config = pipeline.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return latents / config.scaling_factor
        return latents * _per_channel(std, latents) / config.scaling_factor + _per_channel(mean, latents)


def _per_channel(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)


SDXL = SdxlFamily(
    pipelines=(
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "KolorsPipeline",
        "KolorsImg2ImgPipeline",
    ),
    denoiser="unet",
    counted="sample",
    rowed=UNET,
)
