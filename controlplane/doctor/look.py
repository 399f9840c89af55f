"""Gathers the doctor's facts from this host, for one configuration. Judges nothing."""

import asyncio
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from controlplane.doctor.facts import DockerFacts, FolderFacts, HostFacts
from controlplane.doctor.look_docker import look_at_docker
from controlplane.doctor.look_gpu import look_at_gpus
from controlplane.doctor.look_wsl import look_at_wsl
from controlplane.runtime.devices_host import HostMemory
from controlplane.settings import Settings
from controlplane.settings.models_file import EngineKind

_MIB = 1024 * 1024
_ROOT = Path("/")
# A machine that was made out of an image has the mark too, but not the layers.
_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
_LAYERED = frozenset({"overlay", "fuse.fuse-overlayfs", "aufs"})


def look(settings: Settings, nvml: Any) -> HostFacts:
    """One look at this host. `nvml` is the module pynvml."""
    memory = psutil.virtual_memory()
    container = _file_system(_ROOT) in _LAYERED and any(Path(mark).exists() for mark in _CONTAINER_MARKS)
    gpu = look_at_gpus(nvml)
    docker = look_at_docker(settings, gpus=bool(gpu.cards)) if settings.runtime.kind == "docker" else None
    return HostFacts(
        python=(sys.version_info.major, sys.version_info.minor),
        container=container,
        wsl=look_at_wsl(_ROOT, platform.release()),
        memory_mib=memory.total // _MIB,
        available_mib=memory.available // _MIB,
        swap_mib=psutil.swap_memory().total // _MIB,
        own_memory_mib=asyncio.run(HostMemory().read())[0].total_mib,
        shm_mib=_shm_mib(),
        locked_mib=_limit(resource.RLIMIT_MEMLOCK, _MIB),
        open_files=_limit(resource.RLIMIT_NOFILE, 1) or sys.maxsize,
        gpu=gpu,
        docker=docker,
        folders=tuple(_folders(settings, docker, container=container)),
        wants_gpu=settings.devices.source == "cuda" or any(name != "host" for name in settings.devices.budgets_mib),
        margin_mib=settings.devices.margin_mib,
        largest_model_mib=max((model.vram_required_mb for model in settings.models), default=0),
        pins=_pins(settings),
        environ=dict(os.environ),
    )


def _limit(which: int, unit: int) -> int | None:
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft // unit


def _shm_mib() -> int:
    try:
        return shutil.disk_usage("/dev/shm").total // _MIB  # noqa: S108  # only measured
    except OSError:
        return 0


def _pins(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    asking = {m.model_id: m.options.get("wsl2_pin_memory") is True for m in settings.models if _on_vllm(m.engine)}
    return tuple(name for name, asks in asking.items() if asks), tuple(
        name for name, asks in asking.items() if not asks
    )


def _on_vllm(engine: EngineKind) -> bool:
    return engine is EngineKind.VLLM


def _folders(settings: Settings, docker: DockerFacts | None, *, container: bool) -> Iterator[FolderFacts]:
    yield _kept("state", settings.state_dir)
    yield _kept("models", settings.models_dir)
    if docker is None:
        yield _kept("environments", settings.engines_dir)
    else:
        sockets = settings.runtime.docker.sockets
        yield _kept("sockets", Path(sockets.path) if sockets else settings.state_dir / "run" / "sockets")
        if docker.data_root and os.access(docker.data_root, os.F_OK) and not container:
            yield _kept("docker", Path(docker.data_root), usable=True)
    for path in dict.fromkeys(m.model_path for m in settings.models if m.model_path and m.model_path.startswith("/")):
        yield _read("model", Path(path))


def _kept(purpose: str, path: Path, *, usable: bool = False) -> FolderFacts:
    """Of the folder itself, or of the nearest one above that exists: there it will be made."""
    there = _existing(path)
    try:
        free = shutil.disk_usage(there).free // _MIB
    except OSError:
        free = None
    return FolderFacts(purpose, str(path), _file_system(there), free, usable or os.access(there, os.W_OK))


def _read(purpose: str, path: Path) -> FolderFacts:
    return FolderFacts(purpose, str(path), _file_system(_existing(path)), None, os.access(path, os.R_OK), kept=False)


def _existing(path: Path) -> Path:
    whole = path.expanduser().resolve()
    # Asked in a way that takes a folder that may not be entered for one that is not there.
    return next(folder for folder in (whole, *whole.parents) if os.access(folder, os.F_OK))


def _file_system(path: Path) -> str:
    # The last mount on a place hides the ones before it.
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[folder] for folder in (path, *path.parents) if folder in mounts), "?")
