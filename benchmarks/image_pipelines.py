"""Pipelines with random weights, as model folders: they cost what the real ones cost, and draw noise.

`small` is for a CPU: a UNet of two levels, where a step is mostly overhead, as on a large GPU. `sd15` and `sdxl` have
the shapes of those models, tokenisers aside.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

SHAPES = ("small", "sd15", "sdxl")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def save(shape: str, folder: Path, device: str, dtype: str) -> None:
    """Make it on the device, for a CPU takes minutes for the large ones, and write it. Seeded."""
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            pipeline = {"small": _small, "sd15": _sd15, "sdxl": _sdxl}[shape]()
    finally:
        torch.set_default_dtype(usual)
    pipeline.to(dtype=getattr(torch, dtype)).save_pretrained(folder)


def _small() -> Any:
    tokenizer = _tokenizer()
    unet = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    return _stable_diffusion(unet, _vae((16, 16, 32, 32), 1), _text(tokenizer, 32, 2, 4), tokenizer)


def _sd15() -> Any:
    tokenizer = _tokenizer()
    unet = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    return _stable_diffusion(unet, _vae((128, 256, 512, 512), 2), _text(tokenizer, 768, 12, 12), tokenizer)


def _sdxl() -> Any:
    tokenizer = _tokenizer()
    unet = diffusers.UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae((128, 256, 512, 512), 2),
        text_encoder=_text(tokenizer, 768, 12, 12),
        text_encoder_2=_text(tokenizer, 1280, 32, 20, projected=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet.eval(),
        scheduler=_scheduler(),
    )


def _stable_diffusion(unet: Any, vae: Any, text: Any, tokenizer: Any) -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _scheduler() -> Any:
    # It computes with numpy, which reads the host's memory only.
    with torch.device("cpu"):
        return diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        )


def _vae(channels: tuple[int, ...], layers: int) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=layers,
        norm_num_groups=8,
        force_upcast=False,
    ).eval()


def _text(tokenizer: Any, width: int, layers: int, heads: int, *, projected: bool = False) -> Any:
    words = len(tokenizer)
    config = transformers.CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    model = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return model(config).eval()


def _tokenizer() -> Any:
    """A token per letter, in CLIP's 77 places: what a text costs does not depend on the words."""
    entries = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({word: number for number, word in enumerate(entries)}))
        merges.write_text("#version: 0.2\n")
        return transformers.CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77)
