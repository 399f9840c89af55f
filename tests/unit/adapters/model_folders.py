"""Model folders for tests: a config and safetensors files with real headers, and holes for tensors."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

WIDTH_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "I32": 4, "F8_E4M3": 1}

# SmolLM2-135M's, as it is published.
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "dtype": "bfloat16",
    "hidden_size": 576,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
}


def make_folder(path: Path, config: dict[str, Any] | None = None, **tensors: tuple[str, list[int]]) -> Path:
    """A folder with one safetensors file; tensors are given as name=(type, shape)."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(LLAMA if config is None else config))
    if tensors:
        write_tensors(path / "model.safetensors", tensors)
    return path


def write_tensors(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """A safetensors file whose tensors are a hole in the file, so that gigabytes take no room."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * WIDTH_BYTES[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
