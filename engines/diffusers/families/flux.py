"""Flux 1: FluxTransformer2DModel on packed latents; guidance is an input of the distilled models, one per row."""

from dataclasses import dataclass
from typing import Any

import torch

from engines.diffusers.families.rows import RowFamily
from engines.diffusers.jobs import ImageJob


@dataclass(frozen=True)
class FluxFamily(RowFamily):
    """The position tables `txt_ids` and `img_ids` have no rows: they follow from text length and image size."""

    def arguments(self, _pipeline: Any, job: ImageJob) -> dict[str, Any]:
        return {"guidance_scale": job.guidance}

    def takes_negative_prompt(self, _pipeline: Any) -> bool:
        """It would need a second, undistilled guidance that nobody can ask for here."""
        return False

    def latents(self, pipeline: Any, latents: torch.Tensor, job: ImageJob) -> torch.Tensor:
        unpacked = pipeline._unpack_latents(latents, job.height, job.width, pipeline.vae_scale_factor)
        return super().latents(pipeline, unpacked, job)


FLUX = FluxFamily(
    pipelines=("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"),
    denoiser="transformer",
    counted="hidden_states",
    rowed=frozenset({"hidden_states", "encoder_hidden_states", "pooled_projections", "guidance"}),
    shared=frozenset({"txt_ids", "img_ids"}),
)
