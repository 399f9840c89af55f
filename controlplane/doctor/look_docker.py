"""Asks the Docker engine that the configuration names, and looks at the socket it is reached by. Judges nothing."""

import contextlib
import grp
import pwd
import stat
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import docker

from controlplane.doctor.facts import DockerFacts, SocketFacts
from controlplane.errors import RuntimeFailure
from controlplane.runtime.docker_engine import DockerEngine, mapped
from controlplane.settings import Settings

_UNIX = "unix://"
_LIMITS = {"MemoryLimit": "memory", "CpuCfsQuota": "CPUs", "PidsLimit": "processes"}
_MAPPING_OPTIONS = ("name=rootless", "name=userns")


def look_at_docker(settings: Settings, *, gpus: bool) -> DockerFacts:
    """What it says; an engine that does not answer is a fact too. `gpus`: whether NVML sees any."""
    address = settings.runtime.docker.address
    socket = _socket(address)
    try:
        with contextlib.closing(DockerEngine(address).open()) as client, mapped():
            info: Mapping[str, Any] = client.info()
            here = set(_names(client.api.images()))
            guarded = _refuses_what_nobody_needs(client)
    except RuntimeFailure as exc:
        return DockerFacts(address=address, socket=socket, problem=str(exc))
    options = [option.partition(",")[0] for option in info.get("SecurityOptions") or ()]
    return DockerFacts(
        version=str(info.get("ServerVersion", "?")),
        system=str(info.get("OperatingSystem", "?")),
        address=address,
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        cdi_devices=tuple(str(each.get("ID")) for each in info.get("DiscoveredDevices") or ()),
        missing_images=tuple(sorted(_wanted_images(settings, gpus=gpus) - here)),
        missing_limits=tuple(words for key, words in _LIMITS.items() if info.get(key) is False),
        mapped=", ".join(option.removeprefix("name=") for option in options if option in _MAPPING_OPTIONS),
        guarded=guarded,
        socket=socket,
        data_root=str(info.get("DockerRootDir", "")),
    )


def _refuses_what_nobody_needs(client: docker.DockerClient) -> bool:
    """The engine itself lists volumes to anybody; a gate before it has no reason to."""
    answer = client.api.get(f"{client.api.base_url}/volumes")
    return bool(answer.status_code == HTTPStatus.FORBIDDEN)


def _names(images: list[dict[str, Any]]) -> Iterator[str]:
    for image in images:
        yield from image.get("RepoTags") or ()
        yield from image.get("RepoDigests") or ()


def _wanted_images(settings: Settings, *, gpus: bool) -> set[str]:
    found = {settings.runtime.docker.image(environment) for environment in _environments(settings, gpus=gpus)}
    return {image for image in found if image is not None}


def _environments(settings: Settings, *, gpus: bool) -> set[str]:
    """The environments that the configured models will ask for, as far as that shows without a launch."""
    kinds = {model.engine.value for model in settings.models}
    chosen = {"host": False, "cuda": True, "auto": gpus}[settings.devices.source]
    device = "cuda" if chosen else "cpu"
    return {kind if kind == "simulated" else f"{kind}-{device}" for kind in kinds}


def _socket(address: str) -> SocketFacts | None:
    """None when there is none at that address, or when it is no unix socket."""
    if not address.startswith(_UNIX):
        return None
    path = Path(address.removeprefix(_UNIX))
    try:
        found = path.stat()
    except OSError:
        return None
    return SocketFacts(
        path=str(path),
        owner=_owner(found.st_uid),
        group=_group(found.st_gid),
        mode=stat.filemode(found.st_mode),
        open_to_all=bool(found.st_mode & stat.S_IWOTH),
    )


def _owner(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
