"""Stable Diffusion 1 and 2, and latent consistency models: UNet2DConditionModel with CLIP's fixed 77 tokens."""

from engines.diffusers.families.rows import RowFamily

UNET = frozenset({"sample", "encoder_hidden_states", "timestep_cond", "added_cond_kwargs", "class_labels"})

SD = RowFamily(
    pipelines=(
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "LatentConsistencyModelPipeline",
        "LatentConsistencyModelImg2ImgPipeline",
    ),
    denoiser="unet",
    counted="sample",
    rowed=UNET,
)
