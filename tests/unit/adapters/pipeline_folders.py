"""Folders of diffusers pipelines for tests: an index, configs and safetensors files with real headers, no tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.unit.adapters.model_folders import write_tensors

# The published shapes: SD1.5's UNet and VAE, and Flux's transformer.
UNET = {"sample_size": 64, "block_out_channels": [320, 640, 1280, 1280]}
VAE = {"block_out_channels": [128, 256, 512, 512]}
FLUX = {"num_attention_heads": 24, "attention_head_dim": 128, "patch_size": 1}

Tensors = dict[str, tuple[str, list[int]]]


def make_pipeline(folder: Path, components: dict[str, tuple[dict[str, Any], Tensors]], **index: Any) -> Path:
    """Components are given as name=(config, tensors); further keys go into the index."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {name: ["diffusers", name.title()] for name in components}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "SomePipeline", **named, **index}))
    for name, (config, tensors) in components.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        write_tensors(folder / name / "diffusion_pytorch_model.safetensors", tensors)
    return folder


def stable_diffusion(folder: Path) -> Path:
    """SD1.5's shapes; its weights are three MiB in 32 bit, one MiB for each component."""
    mebibyte: Tensors = {"w": ("F16", [512, 512])}
    parts = {"unet": (UNET, mebibyte), "vae": (VAE, mebibyte), "text_encoder": ({}, mebibyte)}
    return make_pipeline(folder, parts, safety_checker=[None, None], requires_safety_checker=False)
