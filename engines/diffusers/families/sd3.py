"""Stable Diffusion 3: SD3Transformer2DModel, text padded to a fixed length."""

from engines.diffusers.families.rows import RowFamily

SD3 = RowFamily(
    pipelines=("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
    denoiser="transformer",
    counted="hidden_states",
    rowed=frozenset({"hidden_states", "encoder_hidden_states", "pooled_projections"}),
)
