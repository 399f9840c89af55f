"""The doctor's judgement: from facts to findings, each with its remedy. Pure; one function for each thing looked at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from controlplane.doctor.facts import FolderFacts, HostFacts

_LEAST_PYTHON = (3, 11)
_LEAST_DRIVER = 525
_LEAST_FREE_MIB = 10 * 1024
_LEAST_OPEN_FILES = 4096
_LEAST_SHM_MIB = 512
# Reached over a protocol, slow for the many small reads and the large mappings of weights.
_SLOW_FILE_SYSTEMS = frozenset({"9p", "drvfs", "v9fs", "fuse.drvfs", "virtiofs", "cifs", "smb3", "nfs", "nfs4"})


class Level(StrEnum):
    """How much it matters: it works; it works, with a surprise; it will not work."""

    GOOD = "good"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at, what was seen, and what to do about it; `remedy` is empty when it is good."""

    subject: str
    level: Level
    seen: str
    remedy: str = ""


Look = Callable[[HostFacts], Iterator[Finding]]


def examine(facts: HostFacts) -> list[Finding]:
    """Every finding, in the order of the looks below."""
    return [finding for look in _LOOKS for finding in look(facts)]


def _good(subject: str, seen: str) -> Finding:
    return Finding(subject, Level.GOOD, seen)


def _warning(subject: str, seen: str, remedy: str) -> Finding:
    return Finding(subject, Level.WARNING, seen, remedy)


def _problem(subject: str, seen: str, remedy: str) -> Finding:
    return Finding(subject, Level.PROBLEM, seen, remedy)


def _python(facts: HostFacts) -> Iterator[Finding]:
    version = ".".join(map(str, facts.python))
    if facts.python < _LEAST_PYTHON:
        yield _problem("python", version, "install Python 3.11 or newer, and make the environment anew")
    else:
        yield _good("python", version)


def _driver(facts: HostFacts) -> Iterator[Finding]:
    gpu = facts.gpu
    if gpu.problem:
        yield from _no_gpu(facts)
        return
    words = f"NVIDIA driver {gpu.driver}, CUDA {gpu.cuda}"
    major = int(gpu.driver.partition(".")[0] or 0) if gpu.driver[:1].isdigit() else 0
    if major < _LEAST_DRIVER:
        yield _warning("gpu driver", words, f"update it to {_LEAST_DRIVER} or newer; current engines need CUDA 12")
    else:
        yield _good("gpu driver", words)


def _no_gpu(facts: HostFacts) -> Iterator[Finding]:
    if not facts.wants_gpu and not facts.gpu.device_files:
        yield _good("gpu driver", "no NVIDIA GPU; models run in main memory")
    elif facts.wsl:
        yield _problem(
            "gpu driver",
            facts.gpu.problem,
            "install the NVIDIA driver in Windows, never one inside WSL; then `wsl --update` and `wsl --shutdown`,"
            " and see that /usr/lib/wsl/lib/libnvidia-ml.so.1 is there",
        )
    else:
        yield _problem(
            "gpu driver",
            facts.gpu.problem,
            "install the NVIDIA driver of your distribution; `nvidia-smi` must list the card",
        )


def _gpu_memory(facts: HostFacts) -> Iterator[Finding]:
    for index, (name, total, used) in enumerate(
        zip(facts.gpu.names, facts.gpu.totals_mib, facts.gpu.used_mib, strict=True)
    ):
        subject, seen = f"gpu{index} memory", f"{name}: {total} MiB, {used} MiB in use"
        if used * 4 > total:
            yield _warning(
                subject,
                seen,
                "other programs hold more than a quarter of it; close them, or lower devices.budgets_mib so that"
                " models do not count on it",
            )
        else:
            yield _good(subject, seen)


def _spill(facts: HostFacts) -> Iterator[Finding]:
    if facts.wsl and facts.gpu.names:
        yield _warning(
            "spill to main memory",
            "Windows may move GPU memory to main memory instead of failing, which makes everything slow without a word",
            "keep devices.margin_mib at 1024 or more; in the NVIDIA control panel set 'CUDA - Sysmem Fallback Policy'"
            " to 'Prefer No Sysmem Fallback'",
        )


def _wsl_memory(facts: HostFacts) -> Iterator[Finding]:
    seen = f"{facts.memory_mib} MiB, {facts.available_mib} MiB available, {facts.swap_mib} MiB swap"
    if facts.wsl and facts.memory_mib < 2 * facts.largest_model_mib:
        yield _warning(
            "main memory",
            f"{seen}; the largest model takes {facts.largest_model_mib} MiB, and WSL gets half the machine unless told",
            "raise memory= under [wsl2] in %UserProfile%\\.wslconfig, then `wsl --shutdown`",
        )
    elif facts.memory_mib < facts.largest_model_mib:
        yield _warning(
            "main memory",
            f"{seen}; the largest model takes {facts.largest_model_mib} MiB",
            "loading reads weights through main memory; choose a smaller model or add memory",
        )
    else:
        yield _good("main memory", seen)


def _pinned(facts: HostFacts) -> Iterator[Finding]:
    if not facts.gpu.names:
        return
    if facts.wsl:
        yield _warning(
            "pinned memory",
            "limited under WSL2; putting a model to sleep needs as much of it as its weights take",
            'set "wsl2_pin_memory": true for vLLM models that sleep or offload; without it they start without',
        )
    elif facts.locked_mib is not None and facts.locked_mib < facts.largest_model_mib:
        yield _warning(
            "pinned memory",
            f"at most {facts.locked_mib} MiB may be locked",
            "raise it with `ulimit -l unlimited`, LimitMEMLOCK=infinity in the unit, or ulimits.memlock in compose",
        )
    else:
        yield _good("pinned memory", "enough may be locked")


def _docker(facts: HostFacts) -> Iterator[Finding]:
    docker = facts.docker
    if docker is None:
        return
    if docker.problem:
        yield _problem(
            "docker", docker.problem, "start it, see that this user may use it, or correct runtime.docker.address"
        )
        return
    yield _good("docker", f"engine {docker.version}")
    if facts.gpu.names and "nvidia" not in docker.runtimes and not docker.cdi_devices and not facts.docker_desktop:
        yield _problem(
            "nvidia toolkit",
            f"the engine has no nvidia runtime and no CDI devices; it has {', '.join(docker.runtimes)}",
            "install nvidia-container-toolkit, run `nvidia-ctk runtime configure --runtime=docker`, restart the engine",
        )
    for image in docker.missing_images:
        yield _warning(
            "image", f"{image} is not here", "it is pulled at the first start; `docker pull` it now, or `make images`"
        )


def _folders(facts: HostFacts) -> Iterator[Finding]:
    for folder in facts.folders:
        yield _folder(folder, wsl=facts.wsl)


def _folder(folder: FolderFacts, *, wsl: bool) -> Finding:
    subject = f"{folder.purpose} folder"
    seen = f"{folder.path} on {folder.file_system}, {folder.free_mib if folder.free_mib is not None else '?'} MiB free"
    if not folder.writable:
        return _problem(subject, f"{seen}; it cannot be written to", "give it to the user that runs the service")
    if folder.file_system in _SLOW_FILE_SYSTEMS:
        place = "inside WSL's own file system, for instance under your home" if wsl else "on a local disk"
        return _warning(subject, f"{seen}; that is slow for weights and databases", f"keep it {place}")
    if folder.free_mib is not None and folder.free_mib < _LEAST_FREE_MIB:
        return _warning(
            subject, seen, "models and environments take gigabytes; free some space or choose another folder"
        )
    return _good(subject, seen)


def _limits(facts: HostFacts) -> Iterator[Finding]:
    if facts.open_files < _LEAST_OPEN_FILES:
        yield _warning(
            "open files",
            f"at most {facts.open_files}",
            f"raise it to {_LEAST_OPEN_FILES} or more: `ulimit -n`, or LimitNOFILE in the unit",
        )
    if facts.shm_mib < _LEAST_SHM_MIB:
        yield _warning("shared memory", f"{facts.shm_mib} MiB", "engines on several GPUs need more; enlarge it")


def _surroundings(facts: HostFacts) -> Iterator[Finding]:
    if "VLLM_CPU_KVCACHE_SPACE" in facts.environ:
        yield _warning(
            "environment",
            "VLLM_CPU_KVCACHE_SPACE is set: vLLM prefers it to the budget of its model",
            "unset it for the service",
        )
    if "CUDA_VISIBLE_DEVICES" in facts.environ:
        yield _warning(
            "environment",
            "CUDA_VISIBLE_DEVICES is set: engines set their own, by NVML's numbers",
            "unset it, and limit devices with devices.budgets_mib instead",
        )


_LOOKS: tuple[Look, ...] = (
    _python,
    _driver,
    _gpu_memory,
    _spill,
    _wsl_memory,
    _pinned,
    _docker,
    _folders,
    _limits,
    _surroundings,
)
