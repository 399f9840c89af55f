"""What a model folder's files say before anything is loaded: how much memory the weights take, and which variant."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

_INDEX = "model_index.json"


def parameters_in(files: Iterable[Path]) -> int:
    """How many numbers the safetensors files hold, by their headers."""
    return sum(math.prod(entry["shape"]) for file in files for entry in _header(file).values())


def files_of(model_path: Path, variant: str | None) -> list[Path]:
    """The safetensors files of every component; of the variant where a component has it."""
    found = []
    for folder in _components(model_path):
        files = sorted(folder.glob("*.safetensors"))
        chosen = [file for file in files if variant is not None and f".{variant}" in file.name]
        found += chosen or [file for file in files if not _is_variant(file)]
    return found


def only_variant(model_path: Path) -> str | None:
    """ "fp16" or the like where some component has no other weights; None: the plain files are all there."""
    for folder in _components(model_path):
        files = list(folder.glob("*.safetensors"))
        if files and all(_is_variant(file) for file in files):
            return next(part for part in ("fp16", "bf16") if any(f".{part}" in file.name for file in files))
    return None


def _components(model_path: Path) -> list[Path]:
    names = json.loads((model_path / _INDEX).read_text())
    return [model_path / name for name in names if (model_path / name).is_dir()]


def _is_variant(file: Path) -> bool:
    return any(f".{part}" in file.name for part in ("fp16", "bf16"))


def _header(file: Path) -> dict[str, dict[str, list[int]]]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header: dict[str, dict[str, list[int]]] = json.loads(opened.read(length))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}
