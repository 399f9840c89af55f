"""Turns one GGUF file into a Hugging Face folder that vLLM serves: bfloat16 safetensors, tokenizer, chat template.

    python convert_gguf.py FILE.gguf FOLDER

Runs in an engine environment that has torch, transformers, accelerate and gguf. Fails when the file carries no chat
template, because a chat model without one answers nonsense.
"""

import os
import sys
from pathlib import Path

# Before transformers is imported: nothing here may ask the network.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(source: Path, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    if not tokenizer.chat_template:
        sys.exit(f"error: {source.name} carries no chat template")
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True)
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # safetensors writes for its owner only; an engine may run as another user.
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
