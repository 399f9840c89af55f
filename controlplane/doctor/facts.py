"""What the doctor has to know of a host, as plain values. Looks at nothing itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CardFacts:
    """One GPU. Memory in MiB. `shareable`: several processes may compute on it; `split`: it is cut up with MIG."""

    name: str
    total_mib: int
    used_mib: int
    shareable: bool = True
    split: bool = False


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What NVML says. `problem`: why it says nothing, empty when it does."""

    driver: str = ""
    cuda: str = ""
    cards: tuple[CardFacts, ...] = ()
    problem: str = ""
    device_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SocketFacts:
    """The file of a unix socket. `mode` as `ls` shows it."""

    path: str
    owner: str
    group: str
    mode: str
    open_to_all: bool


@dataclass(frozen=True, slots=True)
class DockerFacts:
    """What the Docker engine says. `problem`: why it says nothing. `missing_images`: wanted and not there.

    `guarded`: something stands before it and refuses what nobody needs. `socket`: None when it is not a unix socket.
    `mapped`: the engine gives containers other users than the host's (rootless, userns-remap), in its own words.
    `data_root`: where it keeps images and containers, on its own host.
    """

    version: str = ""
    system: str = ""
    address: str = ""
    runtimes: tuple[str, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    missing_images: tuple[str, ...] = ()
    missing_limits: tuple[str, ...] = ()
    mapped: str = ""
    guarded: bool = False
    data_root: str = ""
    socket: SocketFacts | None = None
    problem: str = ""

    @property
    def desktop(self) -> bool:
        return "desktop" in self.system.lower()


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """One folder the service keeps things in, or only reads (`kept` False).

    `file_system` as the kernel names it; `free_mib` None when unreadable; `usable`: it can be written to, or read.
    """

    purpose: str
    path: str
    file_system: str
    free_mib: int | None
    usable: bool
    kept: bool = True


@dataclass(frozen=True, slots=True)
class WslFacts:
    """What is special about a host that is a guest of Windows.

    `settings`: lower-case names and values of the .wslconfig files that can be seen, None when none can.
    `driver_library`: Windows' NVML is where it belongs. `own_drivers`: Linux drivers' libraries, which hide it.
    """

    version: int
    settings: Mapping[str, str] | None
    systemd: bool
    driver_library: bool
    own_drivers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One look at a host, for one configuration. Memory in MiB; a limit that is None is none.

    `container`: the service itself runs in one. `own_memory_mib`: what its processes may take together.
    `pins`: of the vLLM models, those that ask for pinned memory under WSL2, and those that do not.
    """

    python: tuple[int, int]
    container: bool
    wsl: WslFacts | None
    memory_mib: int
    available_mib: int
    swap_mib: int
    own_memory_mib: int
    shm_mib: int
    locked_mib: int | None
    open_files: int
    gpu: GpuFacts
    docker: DockerFacts | None
    folders: tuple[FolderFacts, ...]
    wants_gpu: bool
    margin_mib: int
    largest_model_mib: int
    pins: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    environ: Mapping[str, str] = field(default_factory=dict)
