"""The parts of shapes-draw before any training: their sizes, the tokenizer's words, the noise schedule, the folder.

It builds a Stable-Diffusion layout small enough to train on one core; it trains nothing.
"""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from engines.demo.train_drawing_prompts import WORDS
from engines.demo.world import SIDE

_WIDTH = 64
_START, _END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer in which each word of the world is one token and any other text is read letter by letter."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    words = Tokenizer(models.BPE(unk_token=_END, end_of_word_suffix="</w>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=1,
        show_progress=False,
        special_tokens=[_START, _END],
        initial_alphabet=sorted(letters),
        end_of_word_suffix="</w>",
    )
    words.train_from_iterator([*sorted(letters), *WORDS], trainer)
    with TemporaryDirectory() as folder:
        vocabulary, merges = words.model.save(folder)
        return CLIPTokenizer(vocabulary, merges, model_max_length=32)


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
