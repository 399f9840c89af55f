"""From an order or an errand to what the engine is asked to create.

Pure: every limit and every guard of a container is here.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from docker.types import DeviceRequest, LogConfig, Mount

from controlplane.errors import RuntimeFailure
from controlplane.ports import ReplicaOrder
from controlplane.runtime.docker_label import ERRAND, MANAGED, STORE, container_name, to_labels
from controlplane.runtime.environments import extras_folder
from controlplane.runtime.errands import Errand

PORT = 8000
_TOKEN = re.compile(r"\{(?:(python|uds|host|port)|extras:([a-z0-9][a-z0-9.-]*))\}")
_LOOPBACK = "127.0.0.1"
_SOCKET_DIGITS = 16
_LONGEST_SOCKET_PATH = 107
NOBODY = "65534:65534"
# What an engine puts among the sockets is its group's too. sh is in every image; exec leaves it no part in the rest.
_FOR_GROUP = ("/bin/sh", "-c", 'umask 007; exec "$@"', "sh")


@dataclass(frozen=True, slots=True)
class Share:
    """A folder that engines see under the very path it has here. `source`: a host path, or a volume's name."""

    path: str
    source: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class EngineImage:
    """The image that stands for an engine environment, the Python in it, and where our package `engines` lies."""

    name: str
    python: str = "python3"
    engines: str = "/opt/inference-manager/engines"


@dataclass(frozen=True, slots=True)
class ContainerLimits:
    """What every engine's container may take; None: no limit. Memory in MiB."""

    memory_mib: int | None = None
    cpus: float | None = None
    shm_mib: int = 1024
    pids: int = 4096
    tmp_mib: int = 1024
    log_mib: int = 16
    log_files: int = 3


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """How containers are made.

    `images` maps an environment's name to its image, None standing for engines without one. `engines_dir` is our
    package `engines` as launches name it; images have their own copy of it. `sockets` is the folder
    that engines put their unix sockets into, `network` the private one for engines that listen on TCP; `on_network`:
    we are on it ourselves, so nothing is published. `socket_group`: the folder's group, through which we reach the
    sockets of engines that are another user's. What an errand fetches it fetches over `fetch_network`, as
    `errand_user`, with `fetch_env`.
    """

    store_id: str
    images: Mapping[str | None, EngineImage]
    engines_dir: str
    sockets: Share
    network: str
    on_network: bool = False
    shares: tuple[Share, ...] = ()
    user: str = NOBODY
    socket_group: int | None = None
    fetch_network: str = "bridge"
    fetch_env: Mapping[str, str] = field(default_factory=dict)
    errand_user: str = NOBODY
    base_env: Mapping[str, str] = field(default_factory=dict)
    limits: ContainerLimits = field(default_factory=ContainerLimits)

    def image(self, environment: str | None) -> EngineImage:
        """Raises RuntimeFailure when none is configured."""
        image = self.images.get(environment)
        if image is None:
            known = ", ".join(sorted(str(name) for name in self.images))
            raise RuntimeFailure(f"no image is configured for the engine environment {environment}; there are: {known}")
        return image


@dataclass(frozen=True, slots=True)
class _Inside:
    """What a launch's words mean inside the container: where to listen, the Python, the folder of our engines."""

    socket: str | None
    port: int | None
    image: EngineImage
    engines_dir: str

    def filled(self, text: str) -> str:
        """Replaces the tokens, and the folder of our engines by the image's copy of it. Raises RuntimeFailure."""
        return _TOKEN.sub(self._value, text).replace(self.engines_dir, self.image.engines)

    def _value(self, match: re.Match[str]) -> str:
        if match[2]:
            return str(extras_folder(Path(self.image.python), match[2]))
        found = {
            "python": self.image.python,
            "uds": self.socket,
            "host": None if self.port is None else "0.0.0.0",  # noqa: S104  # inside its own network namespace
            "port": None if self.port is None else str(self.port),
        }[match[1]]
        if found is None:
            raise RuntimeFailure(f"its launch uses {match[0]}, which it does not listen on")
        return found


def creation(order: ReplicaOrder, settings: DockerSettings) -> dict[str, Any]:
    """The keyword arguments for the SDK's `containers.create`. Raises RuntimeFailure."""
    image = settings.image(order.launch.environment)
    unix = order.launch.listen == "unix"
    socket, port = (socket_path(settings, order.replica_id), None) if unix else (None, PORT)
    inside = _Inside(socket, port, image, settings.engines_dir)
    argv = [inside.filled(word) for word in order.launch.argv]
    env = {name: inside.filled(value) for name, value in order.launch.env.items()}
    return {
        "image": image.name,
        **_program(argv, settings, unix=unix),
        "name": container_name(settings.store_id, order.replica_id),
        "labels": to_labels(order, settings.store_id, socket, port),
        "environment": {**settings.base_env, **env, **_gpu_env(order)},
        "mounts": _mounts(settings, unix=unix),
        **_network(settings, unix=unix),
        **_guards(settings.user, settings.limits),
        **_limits(settings.limits),
        **_gpus(order),
    }


def errand_creation(errand: Errand, program: Sequence[str], settings: DockerSettings) -> dict[str, Any]:
    """The same for an errand; `program` are the words that stand for it. Raises RuntimeFailure."""
    image = settings.image(errand.environment)
    home = str(errand.folder)
    # What it keeps beside its work goes the way of its folder.
    own_env = {"HOME": home, "TMPDIR": home, "PIP_NO_CACHE_DIR": "1"}
    return {
        "image": image.name,
        "entrypoint": [image.python],
        "command": ["-I", "-u", *program, *map(str, errand.arguments)],
        "name": errand_name(settings.store_id, errand.name),
        "labels": {MANAGED: "1", STORE: settings.store_id, ERRAND: errand.name},
        "environment": {**(settings.fetch_env if errand.network else {}), **own_env},
        "mounts": [_writable(errand.folder, settings.shares)],
        **({"network": settings.fetch_network} if errand.network else {"network_mode": "none"}),
        **_guards(settings.errand_user, settings.limits),
        **_limits(settings.limits),
    }


def errand_name(store_id: str, name: str) -> str:
    """Follows from the errand's name, so that a second container of one errand cannot be made."""
    return container_name(store_id, f"errand/{name}")


def socket_path(settings: DockerSettings, replica_id: str) -> str:
    """Short, for the kernel takes little more than a hundred bytes, and most of them are the folder's."""
    digest = hashlib.sha256(f"{settings.store_id}/{replica_id}".encode()).hexdigest()
    return f"{settings.sockets.path}/{digest[:_SOCKET_DIGITS]}.sock"


def ids(user: str) -> tuple[int, int]:
    """The numbers in `2000:2000`."""
    uid, _, gid = user.partition(":")
    return int(uid), int(gid)


def longest_sockets_folder() -> int:
    """How many bytes the path of `sockets` may have."""
    return _LONGEST_SOCKET_PATH - len("/.sock") - _SOCKET_DIGITS


def _mounts(settings: DockerSettings, *, unix: bool) -> list[Mount]:
    shares = [*settings.shares, settings.sockets] if unix else settings.shares
    return [_mount(share) for share in shares]


def _mount(share: Share) -> Mount:
    if share.source.startswith("/"):
        return Mount(share.path, share.source, type="bind", read_only=share.read_only)
    return Mount(share.path, share.source, type="volume", read_only=share.read_only)


def _writable(folder: Path, shares: Sequence[Share]) -> Mount:
    """The folder alone where its share is a folder of the host; a volume has no parts. Raises RuntimeFailure."""
    around = [share for share in shares if folder.is_relative_to(share.path)]
    if not around:
        raise RuntimeFailure(f"{folder} is in no share; add one to runtime.docker.shares")
    share = max(around, key=lambda share: len(share.path))
    if not share.source.startswith("/"):
        return Mount(share.path, share.source, type="volume")
    return Mount(str(folder), str(PurePosixPath(share.source) / folder.relative_to(share.path)), type="bind")


def _program(argv: Sequence[str], settings: DockerSettings, *, unix: bool) -> dict[str, Any]:
    if unix and settings.socket_group is not None:
        return {
            "entrypoint": list(_FOR_GROUP),
            "command": list(argv),
            "group_add": [str(settings.socket_group)],
        }
    return {"entrypoint": list(argv[:1]), "command": list(argv[1:])}


def _network(settings: DockerSettings, *, unix: bool) -> dict[str, Any]:
    if unix:  # it speaks through its socket only, so it needs no network at all
        return {"network_mode": "none"}
    published = {} if settings.on_network else {"ports": {f"{PORT}/tcp": (_LOOPBACK, None)}}
    return {"network": settings.network, **published}


def _guards(user: str, limits: ContainerLimits) -> dict[str, Any]:
    return {
        "user": user,
        "healthcheck": {"test": ["NONE"]},  # we probe it ourselves, by what it says of its work
        "init": True,  # PID 1 without handlers ignores SIGTERM, and nobody would reap
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "read_only": True,
        "tmpfs": {"/tmp": f"rw,nosuid,size={limits.tmp_mib}m,mode=1777"},  # noqa: S108  # the container's own
        # Ours to restart: with a back-off, and when the plan says so.
        "restart_policy": {"Name": "no"},
        "stdin_open": False,
        "tty": False,
    }


def _limits(limits: ContainerLimits) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "shm_size": f"{limits.shm_mib}m",
        "pids_limit": limits.pids,
        "log_config": LogConfig(
            type=LogConfig.types.JSON,
            config={"max-size": f"{limits.log_mib}m", "max-file": str(limits.log_files)},
        ),
    }
    if limits.memory_mib is not None:
        asked["mem_limit"] = f"{limits.memory_mib}m"
    if limits.cpus is not None:
        asked["nano_cpus"] = int(limits.cpus * 1e9)
    return asked


def _gpus(order: ReplicaOrder) -> dict[str, Any]:
    if not order.gpus:
        return {}
    return {"device_requests": [DeviceRequest(device_ids=[str(gpu) for gpu in order.gpus], capabilities=[["gpu"]])]}


def _gpu_env(order: ReplicaOrder) -> dict[str, str]:
    """Inside the container its devices are numbered from 0. NVIDIA_VISIBLE_DEVICES: older runtimes look at it alone."""
    if not order.gpus:
        return {}
    return {
        "NVIDIA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in order.gpus),
        "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in range(len(order.gpus))),
    }
