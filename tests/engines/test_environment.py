"""The engine's own environment, as its tests and the control plane start it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import diffusers
import pydantic
import pytest
import starlette
import torch
import transformers

import engines

LIBRARIES = (diffusers, pydantic, starlette, torch, transformers)


def test_libraries_come_from_the_environment() -> None:
    """Nothing that the engine imports comes from the project's virtual environment, which only brings pytest."""
    own = Path(sys.prefix)
    assert [library.__name__ for library in LIBRARIES if own not in Path(str(library.__file__)).parents] == []
    assert own not in Path(pytest.__file__).parents


def test_the_launcher_runs_without_the_project() -> None:
    """With the environment alone, an engine is found, and its usage is told."""
    run = Path(engines.__path__[0]) / "run.py"
    answer = subprocess.run(
        [sys.executable, "-I", run, "diffusers", "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "--model-path" in answer.stdout


def test_the_pipelines_import() -> None:
    """What diffusers imports lazily loads here, so that no dependency is missing and every warning is known."""
    names = ("AutoPipelineForText2Image", "StableDiffusionXLPipeline", "FluxPipeline", "StableDiffusion3Pipeline")
    assert [name for name in (*names, "QwenImagePipeline", "ZImagePipeline") if getattr(diffusers, name) is None] == []
