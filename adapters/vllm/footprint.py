"""Reads a model folder's config and weight headers, and says how much memory the model needs at a given width.

Only headers are read, never tensors. What vLLM itself needs beside the model is `launch`'s business.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import LaunchError
from adapters.tensor_files import MIB, tensor_sizes

_CONFIG_WIDTH_BYTES = {"float64": 8, "float32": 4}
_WIDTH_KEYS = ("dtype", "torch_dtype")
_BLOCK_TOKENS = 128  # vLLM's KV block on CPU; on GPUs it is smaller, so that this rounds up
_LEGACY_PATTERNS = ("*.bin", "*.pt", "*.pth")
# Names that the families of vision-language models give to their parts.
_TEXT_CONFIGS = ("text_config", "llm_config", "language_config")
_VISION_CONFIGS = ("vision_config", "vision_tower", "visual", "img_processor")
_PICTURE_PREPARATIONS = (
    ("preprocessor_config.json", "image_processor_type"),
    ("processor_config.json", "image_processor"),
)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model's weights and cache are made of.

    `values` floating-point values take the engine's width each, `fixed_bytes` stay as stored; a vision tower is among
    them. `stored_width_bytes` is the width of the checkpoint. `cache_values_per_token` is None where the layout is not
    the plain one. `sees`: pictures can be given to it.
    """

    values: int
    fixed_bytes: int
    stored_width_bytes: int
    cache_values_per_token: int | None
    context_tokens: int | None
    sees: bool = False

    def weights_mib(self, width_bytes: int) -> int:
        """The weights in memory at `width_bytes` per value, rounded up."""
        return _whole_mib(self.values * width_bytes + self.fixed_bytes)

    def cache_mib(self, width_bytes: int, tokens: int) -> int | None:
        """The KV cache that one sequence of `tokens` needs, rounded up to blocks; None when that is not known."""
        if self.cache_values_per_token is None:
            return None
        blocks = -(-tokens // _BLOCK_TOKENS) + 1  # one block is never handed out
        return _whole_mib(blocks * _BLOCK_TOKENS * self.cache_values_per_token * width_bytes)


def read_footprint(model_path: str) -> Footprint:
    """Read the folder `model_path`. Raises `LaunchError` when it is missing, incomplete or not readable."""
    folder = Path(model_path)
    if not folder.is_dir():
        raise LaunchError(f"model folder not found: {model_path}; fetch the model, or correct model_path")
    try:
        config = _read_object((folder / "config.json").read_bytes())
        values, fixed_bytes = _weights(folder, _config_width_bytes(config))
    except FileNotFoundError as exc:
        raise LaunchError(f"model folder {model_path} is incomplete: {Path(exc.filename).name} is missing") from exc
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise LaunchError(f"cannot read the model folder {model_path}: {exc}") from exc
    if values + fixed_bytes == 0:
        raise LaunchError(f"model folder {model_path} holds no weights (*.safetensors)")
    text = _text_config(config)
    return Footprint(
        values=values,
        fixed_bytes=fixed_bytes,
        stored_width_bytes=_config_width_bytes(config),
        cache_values_per_token=_cache_values_per_token(text),
        context_tokens=_integer(text, "max_position_embeddings"),
        sees=_sees(folder, config),
    )


def _weights(folder: Path, width_bytes: int) -> tuple[int, int]:
    """(values that are converted, bytes that are not) over the checkpoint that vLLM would load."""
    tensor_files = _safetensors_files(folder)
    if tensor_files:
        sizes = [tensor_sizes(path) for path in tensor_files]
        return sum(values for values, _ in sizes), sum(fixed for _, fixed in sizes)
    legacy_bytes = sum(path.stat().st_size for pattern in _LEGACY_PATTERNS for path in folder.glob(pattern))
    return legacy_bytes // width_bytes, sum(path.stat().st_size for path in folder.glob("*.gguf"))


def _safetensors_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_object(index.read_bytes())["weight_map"]
        if not isinstance(weight_map, dict):
            raise ValueError(f"{index.name} has no weight_map")
        return [folder / str(name) for name in sorted(set(weight_map.values()))]
    files = sorted(folder.glob("*.safetensors"))
    # Some publishers put the same weights there twice; vLLM then takes the other files.
    others = [path for path in files if not path.name.startswith("consolidated")]
    return others or files


def _text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The part that describes the language model: the whole of it, but for models of several parts."""
    nested = next((config[name] for name in _TEXT_CONFIGS if isinstance(config.get(name), dict)), None)
    return _text_config(nested) if isinstance(nested, dict) else config


def _sees(folder: Path, config: Mapping[str, object]) -> bool:
    """Whether the config names a vision tower, or the folder says how pictures are prepared for the model."""
    return any(config.get(name) for name in _VISION_CONFIGS) or any(
        _names_key(folder / name, key) for name, key in _PICTURE_PREPARATIONS
    )


def _names_key(path: Path, key: str) -> bool:
    return path.is_file() and key in _read_object(path.read_bytes())


def _cache_values_per_token(config: Mapping[str, object]) -> int | None:
    """Keys and values of all layers; None for layouts with latent, sliding or mixed layers, which need less.

    None, too, where a nested config leaves out what is its family's default.
    """
    special = config.get("kv_lora_rank") or config.get("cross_attention_layers") or _mixed(config.get("layer_types"))
    sliding = config.get("sliding_window") and config.get("use_sliding_window", True)
    layers, heads = _integer(config, "num_hidden_layers"), _integer(config, "num_key_value_heads")
    if special or sliding or layers is None or heads is None:
        return None
    head_dim = _integer(config, "head_dim") or _head_dim(config)
    return None if head_dim is None else 2 * layers * heads * head_dim


def _mixed(layer_types: object) -> bool:
    return isinstance(layer_types, list) and any(kind != "full_attention" for kind in layer_types)


def _head_dim(config: Mapping[str, object]) -> int | None:
    hidden, heads = _integer(config, "hidden_size"), _integer(config, "num_attention_heads")
    return hidden // heads if hidden and heads else None


def _config_width_bytes(config: Mapping[str, object]) -> int:
    named = next((part[key] for part in (config, _text_config(config)) for key in _WIDTH_KEYS if part.get(key)), None)
    return _CONFIG_WIDTH_BYTES.get(str(named), 2)


def _integer(config: Mapping[str, object], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and value > 0 else None


def _read_object(text: bytes) -> dict[str, object]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _whole_mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB)
