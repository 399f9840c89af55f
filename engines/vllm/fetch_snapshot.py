"""Fetches one model repository from the Hugging Face Hub into a folder, file by file.

    python fetch_snapshot.py ORG/NAME FOLDER

Runs in an engine environment that has huggingface_hub. Prints `file I of N: NAME (BYTES)` per file. Exit status 1
with `error: REASON` when the Hub refuses; any other failure ends in Python's traceback, whose last line is the reason.
"""

import os
import sys
from pathlib import Path

# An operator who serves offline still means this command when asking for it.
os.environ["HF_HUB_OFFLINE"] = "0"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

# Other frameworks' copies of the same weights.
UNWANTED_SUFFIXES = (".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot", ".mlmodel", ".tflite")
UNWANTED_FOLDERS = ("onnx/", "openvino/", "original/", "coreml/")


def wanted_files(names: list[str]) -> list[str]:
    """Leave out what vLLM never reads; .bin weights count only where there are no safetensors."""
    kept = [n for n in names if not n.endswith(UNWANTED_SUFFIXES) and not n.startswith(UNWANTED_FOLDERS)]
    if any(n.endswith(".safetensors") for n in kept):
        kept = [n for n in kept if not n.endswith(".bin")]
    return kept


def fetch(repository: str, folder: Path) -> None:
    found = HfApi().model_info(repository, files_metadata=True)
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in found.siblings or []}
    names = wanted_files(list(sizes))
    for position, name in enumerate(names, start=1):
        print(f"file {position} of {len(names)}: {name} ({sizes[name]})", flush=True)
        hf_hub_download(repository, name, revision=found.sha, local_dir=folder)


def main() -> None:
    repository, folder = sys.argv[1], Path(sys.argv[2])
    try:
        fetch(repository, folder)
    except GatedRepoError:
        sys.exit(f"error: {repository} is gated: accept its terms on the Hub and set HF_TOKEN")
    except RepositoryNotFoundError:
        sys.exit(f"error: the Hub has no model {repository} (or it is private and HF_TOKEN is not set)")


if __name__ == "__main__":
    main()
