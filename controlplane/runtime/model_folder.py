"""Decides whether a folder is a model that an engine can load, in the layouts of transformers and of diffusers.

Looks at names and at the small JSON files that name others; never into weights.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from controlplane.errors import ConfigError

PIPELINE = "model_index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "spiece.model")
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt")
WEIGHT_INDEXES = "*.index.json"
# Components of a pipeline that have no weights, by the end of their class's name.
_SETTINGS_ONLY = ("Scheduler", "Tokenizer", "TokenizerFast", "Processor", "ProcessorFast", "FeatureExtractor")


class ModelFilesMissing(ConfigError):
    """A model's files are not where the configuration says, or not complete; the message says what is missing."""


def missing_parts(folder: Path) -> list[str]:
    """What `folder` lacks to be a model that an engine can load; empty when it is complete."""
    if not folder.is_dir():
        return ["the folder itself"]
    if (folder / PIPELINE).is_file():
        return list(_missing_of_pipeline(folder))
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not _has_weights(folder):
        missing.append("weights (*.safetensors)")
    missing += _missing_shards(folder)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        missing.append("a tokenizer (tokenizer.json, tokenizer.model or vocab.txt)")
    return missing


def check_model_folder(folder: Path) -> Path:
    """The folder itself when it is complete; raises ModelFilesMissing naming what it lacks."""
    if missing := missing_parts(folder):
        raise ModelFilesMissing(f"model folder {folder} is not complete: it lacks {', '.join(missing)}")
    return folder


def _missing_of_pipeline(folder: Path) -> Iterator[str]:
    """What a diffusers pipeline lacks: each component that its index names lies in a folder of that name."""
    try:
        index = json.loads((folder / PIPELINE).read_bytes())
    except ValueError:
        index = None
    if not isinstance(index, Mapping) or "_class_name" not in index:
        yield f"a readable {PIPELINE}"
        return
    for name, kind in index.items():
        # A value is a pair of library and class; null for a component that this pipeline goes without.
        if isinstance(kind, list) and len(kind) == 2 and isinstance(kind[1], str) and not name.startswith("_"):
            yield from _missing_of_component(folder / name, kind[1])


def _missing_of_component(folder: Path, kind: str) -> Iterator[str]:
    if not folder.is_dir():
        yield f"{folder.name}/ (named by {PIPELINE})"
    elif kind.endswith(_SETTINGS_ONLY):
        if not any(folder.iterdir()):
            yield f"the files of {folder.name}/"
    else:
        if not (folder / "config.json").is_file():
            yield f"{folder.name}/config.json"
        if not _has_weights(folder):
            yield f"weights in {folder.name}/ (*.safetensors)"
        yield from (f"{folder.name}/{shard}" for shard in _missing_shards(folder))


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in WEIGHTS)


def _missing_shards(folder: Path) -> list[str]:
    """The weight files that an index names and that are not there."""
    for index in sorted(folder.glob(WEIGHT_INDEXES)):
        try:
            named = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            return [f"a readable {index.name}"]
        if missing := [f"{shard} (named by {index.name})" for shard in named if not (folder / shard).is_file()]:
            return missing
    return []
