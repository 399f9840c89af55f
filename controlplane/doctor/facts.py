"""What the doctor has to know of a host, as plain values. Looks at nothing itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What NVML says. `problem`: why it says nothing, empty when it does. Memory in MiB."""

    driver: str = ""
    cuda: str = ""
    names: tuple[str, ...] = ()
    totals_mib: tuple[int, ...] = ()
    used_mib: tuple[int, ...] = ()
    problem: str = ""
    device_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DockerFacts:
    """What the Docker engine says. `problem`: why it says nothing. `missing_images`: wanted and not there."""

    version: str = ""
    runtimes: tuple[str, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    missing_images: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """One folder the service keeps things in. `file_system` as the kernel names it; `free_mib` None when unreadable."""

    purpose: str
    path: str
    file_system: str
    free_mib: int | None
    writable: bool


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One look at a host. Memory in MiB; `locked_mib` None means without limit."""

    python: tuple[int, int]
    kernel: str
    wsl: bool
    docker_desktop: bool
    memory_mib: int
    available_mib: int
    swap_mib: int
    shm_mib: int
    locked_mib: int | None
    open_files: int
    gpu: GpuFacts
    docker: DockerFacts | None
    folders: tuple[FolderFacts, ...]
    wants_gpu: bool
    largest_model_mib: int
    environ: Mapping[str, str] = field(default_factory=dict)
