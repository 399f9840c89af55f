"""engines/run.py: an engine sees its own environment's libraries and nothing of the control plane."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import engines

RUN = Path(engines.__path__[0]) / "run.py"
SHOWS = """
import importlib, json, sys
import engines.shows.beside as beside

def found(name):
    try:
        return importlib.import_module(name).__file__
    except ModuleNotFoundError:
        return None

names = ("vllm", "controlplane", "engines")
print(json.dumps([sys.path, sys.argv, __name__, beside.WORD, {name: found(name) for name in names}]))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder like ours: the launcher, an engine that tells what it sees, and folders named as libraries are."""
    checkout = tmp_path / "checkout"
    for name in ("engines/shows", "engines/vllm", "controlplane"):
        (checkout / name).mkdir(parents=True)
        (checkout / name / "__init__.py").touch()
    shutil.copy(RUN, checkout / "engines" / "run.py")
    (checkout / "engines" / "__init__.py").touch()
    (checkout / "engines" / "shows" / "__main__.py").write_text(SHOWS)
    (checkout / "engines" / "shows" / "beside.py").write_text("WORD = 'beside'")
    return checkout


def launch(checkout: Path, *arguments: str, python_path: str = "") -> subprocess.CompletedProcess[str]:
    """Run it with the bare interpreter, standing in the checkout."""
    python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    run = str(checkout / "engines" / "run.py")
    env = os.environ | {"PYTHONPATH": python_path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(python), *arguments[:1], run, *arguments[1:]]
    return subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("switch", ["-P", "-u"])
def test_an_engine_does_not_see_the_control_plane(checkout: Path, switch: str) -> None:
    """Neither folder stands on sys.path, with -P or without, and even where PYTHONPATH names them."""
    paths = f"{checkout}:{checkout / 'engines'}"
    answer = launch(checkout, switch, "shows", "--uds", "x y", python_path=paths)
    path, argv, name, word, found = json.loads(answer.stdout)
    assert not {str(checkout), str(checkout / "engines"), ""} & set(path)
    assert (name, argv[1:], word) == ("__main__", ["--uds", "x y"], "beside")
    assert found == {"vllm": None, "controlplane": None, "engines": str(checkout / "engines" / "__init__.py")}


def test_a_library_is_not_hidden_by_a_folder_of_its_name(checkout: Path, tmp_path: Path) -> None:
    """`import vllm` finds the environment's vllm although engines/vllm is a folder."""
    library = tmp_path / "site" / "vllm.py"
    library.parent.mkdir()
    library.touch()
    answer = launch(checkout, "-P", "shows", python_path=str(library.parent))
    assert json.loads(answer.stdout)[-1]["vllm"] == str(library)


@pytest.mark.parametrize("arguments", [(), ("nope",), ("vllm",), ("../shows",)])
def test_an_unknown_engine_is_refused_with_the_known_ones(checkout: Path, arguments: tuple[str, ...]) -> None:
    """Only a folder with a __main__ is an engine."""
    answer = launch(checkout, "-P", *arguments)
    assert answer.returncode == 1
    assert answer.stderr.endswith("NAME is one of: shows\n")
