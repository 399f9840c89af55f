"""The parts of shapes-draw before any training: their sizes, the tokenizer's words, the noise schedule, the folder.

It builds a Stable-Diffusion layout small enough to train on one core; it trains nothing.
"""

import copy
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engines.demo.train_drawing_prompts import WORDS
from engines.demo.world import SIDE

_WIDTH = 64
_START, _END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer in which each word of the world is one token and any other text is read letter by letter."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        # A word grows from its left; a later word's merges rank lower, so they leave the earlier words whole.
        first, *others = _pieces(word, merges)
        for piece in others:
            merges.append((first, piece))
            first += piece
    grown = [first + second for first, second in merges]
    tokens = dict.fromkeys([_START, _END, *letters, *(f"{letter}</w>" for letter in letters), *grown])
    return CLIPTokenizer({token: row for row, token in enumerate(tokens)}, merges, model_max_length=32)


def _pieces(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """The word as byte-pair encoding cuts it: the earliest merge that fits is made first, until none fits."""
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    while fitting := [pair for pair in pairwise(pieces) if pair in ranks]:
        best = min(fitting, key=ranks.__getitem__)
        place = list(pairwise(pieces)).index(best)
        pieces[place : place + 2] = ["".join(best)]
    return pieces


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_autoencoder() -> AutoencoderKL:
    """64x64x3 pixels to 8x8x4 latents and back."""
    widths = (8, 16, 32, 48)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=4,
        # More groups would lose the mean of a flat picture, which is its colour.
        norm_num_groups=1,
        mid_block_add_attention=False,
        sample_size=SIDE,
    )


def make_denoiser() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(40, 80),
        layers_per_block=1,
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def make_noise_schedule() -> DDIMScheduler:
    """The schedule that is trained on; it ends in all but pure noise, so that flat white and black are reached."""
    return DDIMScheduler(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
    )


def assemble(
    autoencoder: AutoencoderKL, denoiser: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=autoencoder,
        unet=denoiser,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=EulerDiscreteScheduler.from_config(make_noise_schedule().config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Writes the folder, the large parts in half precision; they load as float32 where nothing else is asked for."""
    halves = {name: copy.deepcopy(getattr(pipeline, name)).to(torch.float16) for name in ("vae", "unet")}
    whole = {name: part for name, part in pipeline.components.items() if name not in halves}
    StableDiffusionPipeline(**whole, **halves, requires_safety_checker=False).save_pretrained(folder)
