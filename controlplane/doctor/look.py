"""Gathers the doctor's facts from this host: files, NVML, the Docker engine. Judges nothing."""

import os
import platform
import resource
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from controlplane.doctor.facts import DockerFacts, FolderFacts, GpuFacts, HostFacts
from controlplane.errors import RuntimeFailure
from controlplane.runtime.docker_engine import DockerEngine
from controlplane.settings import Settings

_MIB = 1024 * 1024
_DEVICE_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")


def look(settings: Settings, nvml: Any) -> HostFacts:
    """One look at this host, for this configuration. `nvml` is the module pynvml."""
    memory = psutil.virtual_memory()
    kernel = platform.release()
    docker = _docker(settings) if settings.runtime.kind == "docker" else None
    return HostFacts(
        python=(sys.version_info.major, sys.version_info.minor),
        kernel=kernel,
        wsl="microsoft" in kernel.lower(),
        docker_desktop=docker is not None and "desktop" in docker.version.lower(),
        memory_mib=memory.total // _MIB,
        available_mib=memory.available // _MIB,
        swap_mib=psutil.swap_memory().total // _MIB,
        shm_mib=_shm_mib(),
        locked_mib=_limit(resource.RLIMIT_MEMLOCK, _MIB),
        open_files=_limit(resource.RLIMIT_NOFILE, 1) or sys.maxsize,
        gpu=_gpu(nvml),
        docker=docker,
        folders=tuple(_folders(settings)),
        wants_gpu=settings.devices.source == "cuda" or any(name != "host" for name in settings.devices.budgets_mib),
        largest_model_mib=max((model.vram_required_mb for model in settings.models), default=0),
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


def _gpu(nvml: Any) -> GpuFacts:
    files = tuple(path for path in _DEVICE_FILES if Path(path).exists())
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        memory = [nvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
        cuda = nvml.nvmlSystemGetCudaDriverVersion()
        return GpuFacts(
            driver=_text(nvml.nvmlSystemGetDriverVersion()),
            cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
            names=tuple(_text(nvml.nvmlDeviceGetName(handle)) for handle in handles),
            totals_mib=tuple(int(figures.total) // _MIB for figures in memory),
            used_mib=tuple(int(figures.used) // _MIB for figures in memory),
            problem="" if handles else "the driver answers, but there is no card",
            device_files=files,
        )
    except nvml.NVMLError as exc:
        return GpuFacts(problem=str(exc), device_files=files)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _docker(settings: Settings) -> DockerFacts:
    section = settings.runtime.docker
    images = {section.image(name) for name in _environments(settings)} - {None}
    try:
        with_client = DockerEngine(section.address).open()
    except RuntimeFailure as exc:
        return DockerFacts(problem=str(exc))
    try:
        info: Mapping[str, Any] = with_client.info()
        here = {tag for image in with_client.api.images() for tag in image.get("RepoTags") or ()}
        return DockerFacts(
            version=f"{info.get('ServerVersion', '?')} ({info.get('OperatingSystem', '?')})",
            runtimes=tuple(sorted(info.get("Runtimes") or ())),
            cdi_devices=tuple(str(each.get("ID")) for each in info.get("DiscoveredDevices") or ()),
            missing_images=tuple(sorted(str(image) for image in images if image not in here)),
        )
    finally:
        with_client.close()


def _environments(settings: Settings) -> set[str]:
    """The environments that the configured models will ask for, as far as that shows without a launch."""
    kinds = {model.engine.value for model in settings.models}
    device = "cpu" if settings.devices.source == "host" else "cuda"
    return {kind if kind == "simulated" else f"{kind}-{device}" for kind in kinds}


def _folders(settings: Settings) -> list[FolderFacts]:
    wanted = {"state": settings.state_dir, "models": settings.models_dir, "environments": settings.engines_dir}
    return [_folder(purpose, path.expanduser().resolve()) for purpose, path in wanted.items()]


def _folder(purpose: str, path: Path) -> FolderFacts:
    """Of the folder itself, or of the nearest one above that exists: there it will be made."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        free = shutil.disk_usage(there).free // _MIB
    except OSError:
        free = None
    return FolderFacts(purpose, str(path), _file_system(there), free, os.access(there, os.W_OK))


def _file_system(path: Path) -> str:
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[folder] for folder in (path, *path.parents) if folder in mounts), "?")
