"""Fetches one model repository from the Hugging Face Hub into a folder, file by file.

    python fetch_snapshot.py ORG/NAME FOLDER

Runs in an engine environment that has huggingface_hub. Prints `file I of N: NAME (BYTES)` per file. Exit status 1
with `error: REASON` when the Hub refuses; any other failure ends in Python's traceback, whose last line is the reason.
"""

import os
import sys
from pathlib import Path

PIPELINE = "model_index.json"
# Other frameworks' copies of the same weights.
UNWANTED_SUFFIXES = (".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot", ".mlmodel", ".tflite")
UNWANTED_FOLDERS = ("onnx/", "openvino/", "original/", "coreml/")


def wanted_files(names: list[str]) -> list[str]:
    """Leave out what engines never read; .bin weights count only where there are no safetensors."""
    kept = [n for n in names if not n.endswith(UNWANTED_SUFFIXES) and not n.startswith(UNWANTED_FOLDERS)]
    if PIPELINE in names:
        kept = _of_pipeline(kept)
    # A folder at a time: a pipeline's components may differ.
    tensors = {folder_of(n) for n in kept if n.endswith(".safetensors")}
    return [n for n in kept if not (n.endswith(".bin") and folder_of(n) in tensors)]


def _of_pipeline(names: list[str]) -> list[str]:
    """Without the checkpoints of other programs beside the components, and without copies of another width."""
    kept = [n for n in names if "/" in n or not n.endswith((".safetensors", ".bin", ".ckpt"))]
    return [n for n in kept if not (is_variant(n) and without_variant(n) in kept)]


def folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def is_variant(name: str) -> bool:
    """Whether it is a copy with the variant's name in it, as in diffusion_pytorch_model.fp16.safetensors."""
    return name.endswith((".safetensors", ".bin")) and without_variant(name) != name


def without_variant(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.rpartition(".")
    return f"{folder}{slash}{stem.split('.')[0]}.{suffix}"


def fetch(repository: str, folder: Path) -> None:
    from huggingface_hub import HfApi, hf_hub_download  # noqa: PLC0415 - which files are wanted is known without it

    found = HfApi().model_info(repository, files_metadata=True)
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in found.siblings or []}
    names = wanted_files(list(sizes))
    for position, name in enumerate(names, start=1):
        print(f"file {position} of {len(names)}: {name} ({sizes[name]})", flush=True)
        hf_hub_download(repository, name, revision=found.sha, local_dir=folder)


def main() -> None:
    # Read while the library is imported. An operator who serves offline still means this command when asking for it.
    os.environ.update(HF_HUB_OFFLINE="0", HF_HUB_DISABLE_PROGRESS_BARS="1")
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError  # noqa: PLC0415

    repository, folder = sys.argv[1], Path(sys.argv[2])
    try:
        fetch(repository, folder)
    except GatedRepoError:
        sys.exit(f"error: {repository} is gated: accept its terms on the Hub and set HF_TOKEN")
    except RepositoryNotFoundError:
        sys.exit(f"error: the Hub has no model {repository} (or it is private and HF_TOKEN is not set)")


if __name__ == "__main__":
    main()
