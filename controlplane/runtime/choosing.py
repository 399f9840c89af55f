"""The runtime that the configuration asks for, and who runs its errands: processes on this host, or containers."""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import engines
from controlplane.ports import Devices, ReplicaExit, Runtime
from controlplane.runtime.docker import DockerRuntime
from controlplane.runtime.docker_container import (
    NOBODY,
    ContainerLimits,
    DockerSettings,
    EngineImage,
    Share,
)
from controlplane.runtime.docker_engine import DockerEngine
from controlplane.runtime.docker_errands import ContainerErrands
from controlplane.runtime.docker_sockets import prepare_sockets
from controlplane.runtime.environments import Environments
from controlplane.runtime.errands import HostErrands
from controlplane.runtime.interpreters import OWN_SUFFIX, EngineInterpreters
from controlplane.runtime.model_catalog import shipped_catalog
from controlplane.runtime.model_files import ModelFiles
from controlplane.runtime.process import ProcessRuntime, ProcessSettings
from controlplane.runtime.process_log import LogLimits
from controlplane.settings import Settings, ShareSettings

_MIB = 1024 * 1024
OnExit = Callable[[ReplicaExit], None]
# How a host says where packages and models come from, and who it is to them; what fetches in a container needs it too.
_FETCHING = re.compile(
    r"(?i:https?_proxy|no_proxy|all_proxy)|PIP_(EXTRA_)?INDEX_URL|PIP_TRUSTED_HOST|HF_(TOKEN|ENDPOINT)"
)


def make_runtime(settings: Settings, devices: Devices, environments: Environments, on_exit: OnExit) -> Runtime:
    """Starts nothing. Raises ConfigError."""
    if settings.runtime.kind == "docker":
        return _docker(settings, devices, on_exit)
    chosen = {"vllm": settings.engines.vllm.python, "diffusers": settings.engines.diffusers.python}
    own = {f"{kind}{OWN_SUFFIX}": python for kind, python in chosen.items() if python}
    interpreters = EngineInterpreters(environments, own)
    limits = LogLimits(max_bytes=settings.logs.max_mib * _MIB, keep=settings.logs.keep)
    place = ProcessSettings(settings.state_dir, store_id(settings.state_dir), dict(os.environ), log_limits=limits)
    return ProcessRuntime(place, interpreters, devices, on_exit)


def make_model_files(settings: Settings, environments: Environments) -> ModelFiles:
    """Fetches where the engines run. Starts nothing."""
    catalog = shipped_catalog()
    if settings.runtime.kind == "process":
        return ModelFiles(settings.models_dir, catalog, HostErrands(environments))
    errands = ContainerErrands(docker_settings(settings), DockerEngine(settings.runtime.docker.address))
    return ModelFiles(settings.models_dir.resolve(), catalog, errands, place_shipped=True)


def store_id(state_dir: Path) -> str:
    """Tells this control plane's engines from another's on the same machine, and the same after every restart."""
    return hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]


def _docker(settings: Settings, devices: Devices, on_exit: OnExit) -> DockerRuntime:
    asked, engine = docker_settings(settings), DockerEngine(settings.runtime.docker.address)
    settings.models_dir.mkdir(parents=True, exist_ok=True)  # what is not there cannot be bound
    group = prepare_sockets(Path(asked.sockets.path), asked.user)
    log_dir = settings.state_dir.resolve() / "logs"
    return DockerRuntime(replace(asked, socket_group=group), engine, devices, log_dir, on_exit)


def docker_settings(settings: Settings) -> DockerSettings:
    """How the configuration wants containers made."""
    section, state_dir = settings.runtime.docker, settings.state_dir.resolve()
    sockets = section.sockets or ShareSettings(path=str(state_dir / "run" / "sockets"))
    own = f"{os.getuid()}:{os.getgid()}"
    images: dict[str | None, EngineImage] = {
        name: EngineImage(image, section.python(name))
        for name in section.environments
        if (image := section.image(name)) is not None
    }
    return DockerSettings(
        store_id=store_id(state_dir),
        images={**images, None: images["simulated"]},
        engines_dir=str(Path(engines.__path__[0])),
        sockets=Share(sockets.path, sockets.source or sockets.path, read_only=False),
        network=section.network,
        on_network=section.on_network,
        shares=tuple(_shares(settings)),
        user=section.user or own,
        # A name too, for libraries that ask who they are: not every image knows the user.
        base_env={"HOME": section.home, "USER": "inference"},
        fetch_network=section.fetch_network,
        fetch_env=fetching(os.environ),
        # What is fetched is the service's own; root's power is not needed for it.
        errand_user=own if os.getuid() else NOBODY,
        limits=ContainerLimits(
            memory_mib=section.memory_mib,
            cpus=section.cpus,
            shm_mib=section.shm_mib,
            log_mib=settings.logs.max_mib,
            log_files=settings.logs.keep + 1,
        ),
    )


def fetching(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environment` that say how to fetch: proxies, package indexes, the Hub and its token."""
    return {name: value for name, value in environment.items() if _FETCHING.fullmatch(name)}


def _shares(settings: Settings) -> list[Share]:
    """The models folder, every configured model's own folder outside it, and what the configuration adds."""
    given = [Share(s.path, s.source or s.path, read_only=s.read_only) for s in settings.runtime.docker.shares]
    models = str(settings.models_dir.resolve())
    folders = [models, *(m.model_path for m in settings.models if m.model_path and m.model_path.startswith("/"))]
    covered = [Path(share.path) for share in given]
    mine = []
    for folder in folders:
        if not any(Path(folder).is_relative_to(path) for path in covered):
            mine.append(Share(folder, folder))
            covered.append(Path(folder))
    return [*mine, *given]
