"""Reads a model folder's config and weight headers, and says how much memory the model needs at a given width.

Only headers are read, never tensors. What vLLM itself needs beside the model is `launch`'s business.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import LaunchError

MIB = 1024 * 1024

# Tensors of these types are converted to the width that the engine computes in; others (quantised, integer) are not.
_CONVERTED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_CONFIG_WIDTH_BYTES = {"float64": 8, "float32": 4}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_BLOCK_TOKENS = 128  # vLLM's KV block on CPU; on GPUs it is smaller, so that this rounds up
_LEGACY_PATTERNS = ("*.bin", "*.pt", "*.pth")


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model's weights and cache are made of.

    `values` floating-point values take the engine's width each, `fixed_bytes` stay as stored. `stored_width_bytes` is
    the width of the checkpoint. `cache_values_per_token` is None where the layout is not the plain one.
    """

    values: int
    fixed_bytes: int
    stored_width_bytes: int
    cache_values_per_token: int | None
    context_tokens: int | None

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
    return Footprint(
        values=values,
        fixed_bytes=fixed_bytes,
        stored_width_bytes=_config_width_bytes(config),
        cache_values_per_token=_cache_values_per_token(config),
        context_tokens=_integer(config, "max_position_embeddings"),
    )


def _weights(folder: Path, width_bytes: int) -> tuple[int, int]:
    """(values that are converted, bytes that are not) over the checkpoint that vLLM would load."""
    tensor_files = _safetensors_files(folder)
    if tensor_files:
        sizes = [_safetensors_sizes(path) for path in tensor_files]
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


def _safetensors_sizes(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if not 0 < length <= _MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} is not a safetensors file")
        header = _read_object(file.read(length))
    stored_bytes = path.stat().st_size - 8 - length
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
    values, fixed_bytes, end = _sum_tensors(tensors)
    if end > stored_bytes:
        raise ValueError(f"{path.name} is cut short: {end - stored_bytes} bytes are missing")
    return values, fixed_bytes


def _sum_tensors(tensors: Iterable[object]) -> tuple[int, int, int]:
    """(values that are converted, bytes that are not, where the last tensor ends)"""
    values = fixed_bytes = last_end = 0
    for tensor in tensors:
        if not isinstance(tensor, dict):
            raise TypeError("a tensor's header is not an object")
        begin, end = tensor["data_offsets"]
        last_end = max(last_end, end)
        width_bytes = _CONVERTED_BYTES.get(tensor["dtype"])
        if width_bytes is None:
            fixed_bytes += end - begin
        else:
            values += (end - begin) // width_bytes
    return values, fixed_bytes, last_end


def _cache_values_per_token(config: Mapping[str, object]) -> int | None:
    """Keys and values of all layers; None for layouts with latent, sliding or mixed layers, which need less."""
    special = config.get("kv_lora_rank") or config.get("text_config") or _mixed(config.get("layer_types"))
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
    return _CONFIG_WIDTH_BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 2)


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
