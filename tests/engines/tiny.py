"""Tiny pipelines with random weights, one per class of denoiser: they compute like the real ones and mean nothing.

Weights follow from a fixed seed. Each is built in well under a second; `saved` writes one as a model folder.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import tokenizers
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


def clip_text(tokenizer: Any, width: int = 32, projected: bool = False, more_words: int = 0) -> Any:
    size = len(tokenizer)
    config = transformers.CLIPTextConfig(
        vocab_size=size + more_words,
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


def sd(more_mib: int = 0) -> Any:
    """Stable Diffusion 1.5's classes. `more_mib`: the text encoder is that much bigger, in rows that no word uses."""
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
        text_encoder=clip_text(tokenizer, more_words=more_mib * 1024 * 1024 // (32 * 4)),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=_noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def lcm() -> Any:
    """A latent consistency model's: guidance is an embedding of its own, steps go back to noise."""
    pipeline = sd()
    unet = diffusers.UNet2DConditionModel.from_config(pipeline.unet.config, time_cond_proj_dim=16).eval()
    return diffusers.LatentConsistencyModelPipeline(
        **(
            pipeline.components
            | {"unet": unet, "scheduler": diffusers.LCMScheduler.from_config(pipeline.scheduler.config)}
        ),
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    """Stable Diffusion XL's: two text encoders, pooled text and sizes beside the prompt."""
    torch.manual_seed(1)
    tokenizer = clip_tokenizer()
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=64,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip_text(tokenizer),
        text_encoder_2=clip_text(tokenizer, projected=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet.eval(),
        scheduler=_noise_scheduler(),
    )


def sd3() -> Any:
    """Stable Diffusion 3's: two CLIPs and a T5, a transformer on flow matching."""
    torch.manual_seed(2)
    tokenizer = clip_tokenizer()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(16, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5, shift_factor=0.06),
        text_encoder=clip_text(tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=clip_text(tokenizer, projected=True),
        tokenizer_2=tokenizer,
        text_encoder_3=t5_text(64),
        tokenizer_3=word_tokenizer(),
    )


def flux() -> Any:
    """Flux 1's: packed latents, guidance as an input."""
    torch.manual_seed(3)
    tokenizer = clip_tokenizer()
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5, shift_factor=0.06),
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=t5_text(32),
        tokenizer_2=word_tokenizer(),
        transformer=transformer.eval(),
    )


def qwen_image() -> Any:
    """Qwen-Image's: text of any length under a mask, guidance in two calls per step, a video decoder."""
    torch.manual_seed(4)
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    decoder = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1, 0.2, -0.1, 0.0],
        latents_std=[1.0, 2.0, 1.5, 1.1],
    )
    text = transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            text_config={
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
                "rope_theta": 1000000.0,
                "vocab_size": 300,
            },
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 16,
            },
            vision_start_token_id=1,
            vision_end_token_id=2,
            image_token_id=3,
            video_token_id=4,
        )
    )
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=decoder.eval(),
        text_encoder=text.eval(),
        tokenizer=word_tokenizer(),
        transformer=transformer.eval(),
    )


def z_image() -> Any:
    """Z-Image's: lists of images and of texts without padding."""
    torch.manual_seed(5)
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    # As trained: these hold padding, and are left unset by the class.
    for pad in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(pad)
    text = transformers.Qwen3Model(
        transformers.Qwen3Config(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            vocab_size=300,
        )
    )
    return diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5, shift_factor=0.06),
        text_encoder=text.eval(),
        tokenizer=word_tokenizer(),
        transformer=transformer.eval(),
    )


def pixart() -> Any:
    """PixArt-Sigma's, which is called whole."""
    torch.manual_seed(6)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        caption_channels=32,
        use_additional_conditions=False,
    )
    return diffusers.PixArtSigmaPipeline(
        tokenizer=word_tokenizer(),
        text_encoder=t5_text(32),
        vae=vae(),
        transformer=transformer.eval(),
        scheduler=_noise_scheduler(),
    )


def word_tokenizer() -> Any:
    """One token per byte, with a chat template."""
    model = tokenizers.models.BPE(vocab={letter: number for number, letter in enumerate(_bytes())}, merges=[])
    fast = tokenizers.Tokenizer(model)
    fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="<pad>", eos_token="</s>")
    made.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return made


def _bytes() -> list[str]:
    return ["<pad>", "</s>", *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())]


def t5_text(width: int) -> Any:
    config = transformers.T5Config(
        vocab_size=300, d_model=width, d_kv=8, d_ff=width, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return transformers.T5EncoderModel(config).eval()


def _noise_scheduler() -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
