"""The parts of the caption model: its tokenizer, chat template, picture preparation and untrained network.

A LLaVA layout as Hugging Face and vLLM know it: a CLIP vision tower, a projector and a Llama text model, all of them
tiny. Also writes the folder that vLLM reads. It trains nothing.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

SIDE = 64
PATCH_SIDE = 16
IMAGE_TOKENS = (SIDE // PATCH_SIDE) ** 2
CONTEXT_TOKENS = 512
BEGIN, IMAGE, END, PAD = "<s>", "<image>", "</s>", "<pad>"

_SPECIAL = (PAD, BEGIN, END, IMAGE, "<system>", "<user>", "<assistant>")
_VOCABULARY = 448
_WIDTH = 128
# What every channel is moved and divided by: 0..1 becomes -1..1.
CHANNEL_MEAN, CHANNEL_DEVIATION = 0.5, 0.5

# Parts stand in the order of the request. A role that was never trained speaks as the user.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<' + (message['role'] if message['role'] in ['system', 'assistant'] else 'user') + '>' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for content in message['content'] -%}"
    "{%- if content['type'] == 'image' -%}{{- '<image>' -}}"
    "{%- elif content['type'] == 'text' -%}{{- content['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}{{- '</s>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}"
)


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that can write any text, and the given ones in few tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT_TOKENS,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[IMAGE, "<system>", "<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """The untrained network, from torch's current random state."""
    vision = CLIPVisionConfig(
        image_size=SIDE,
        patch_size=PATCH_SIDE,
        hidden_size=_WIDTH,
        intermediate_size=3 * _WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=_WIDTH,
    )
    text = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=_WIDTH,
        intermediate_size=3 * _WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,  # 32 values per head: the smallest that vLLM's attention on CPU knows
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    config.text_config.architectures = ["LlamaForCausalLM"]
    model = LlavaForConditionalGeneration(config)
    _widen(model.model.vision_tower)
    return model


def _widen(vision_tower: torch.nn.Module) -> None:
    """CLIP begins with weights so small that a tower of this size takes long to tell anything apart."""
    for name, weight in vision_tower.named_parameters():
        if "patch_embedding" in name or "position_embedding" in name:
            torch.nn.init.normal_(weight, std=0.05)
        elif weight.dim() == 2:
            torch.nn.init.xavier_uniform_(weight)


def save_folder(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights (float16), configuration, tokenizer and picture preparation as vLLM reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    weights = {_published_name(name): value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    config = {**model.config.to_dict(), "architectures": ["LlavaForConditionalGeneration"], "dtype": "float16"}
    _write(folder / "config.json", config)
    # Whatever temperature a client asks for: the model has one answer, and it is the likeliest one.
    _write(
        folder / "generation_config.json",
        {
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "do_sample": False,
            "top_k": 1,
        },
    )
    _write(folder / "preprocessor_config.json", _picture_preparation())
    _write(
        folder / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "patch_size": PATCH_SIDE,
            "num_additional_image_tokens": 1,  # CLIP's own first token, which the strategy "default" drops again
            "vision_feature_select_strategy": "default",
            "image_token": IMAGE,
        },
    )


def _published_name(name: str) -> str:
    """The name by which the checkpoints of LLaVA call a weight, and vLLM asks for it."""
    name = name.removeprefix("model.")
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        return name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    return name.replace("lm_head.", "language_model.lm_head.", 1) if name.startswith("lm_head.") else name


def _picture_preparation() -> dict[str, object]:
    """Any picture is made 64x64, whatever its form: nothing of it is cut away."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "resample": 3,  # bicubic
        "do_center_crop": False,
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [CHANNEL_MEAN] * 3,
        "image_std": [CHANNEL_DEVIATION] * 3,
    }


def _write(path: Path, fields: dict[str, object]) -> None:
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", "utf-8")


def as_model_input(pictures: torch.Tensor) -> torch.Tensor:
    """(N, 64, 64, 3) bytes to the (N, 3, 64, 64) floats that the vision tower takes."""
    return (pictures.permute(0, 3, 1, 2).float() / 255 - CHANNEL_MEAN) / CHANNEL_DEVIATION
