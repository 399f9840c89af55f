"""Tiny pipelines with random weights, one per class of denoiser: they compute like the real ones and mean nothing.

Weights follow from a fixed seed. Each is built in well under a second; `saved` writes one as a model folder.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 ,.'-"


def clip_tokenizer() -> Any:
    """One token per letter; CLIP's 77 places."""
    words = list(_LETTERS) + [f"{letter}</w>" for letter in _LETTERS]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    with tempfile.TemporaryDirectory() as folder:
        vocab, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocab.write_text(json.dumps(vocabulary))
        merges.write_text("#version: 0.2\n")
        return transformers.CLIPTokenizer(str(vocab), str(merges), model_max_length=77)


def clip_text(tokenizer: Any, width: int = 32, projected: bool = False) -> Any:
    size = len(tokenizer)
    config = transformers.CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=width * 2,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=width,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    model = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return model(config).eval()


def vae(channels: int = 4, **config: Any) -> Any:
    """Four levels, so that a latent is eight pixels wide as in the real ones."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
        **config,
    ).eval()


def sd() -> Any:
    """Stable Diffusion 1.5's classes."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=_noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _noise_scheduler() -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
