"""What is judged of the rest of a host: Python, folders and their disks, limits, and variables that overrule."""

from collections.abc import Iterator

from controlplane.doctor.facts import FolderFacts, HostFacts
from controlplane.doctor.finding import Finding, good, problem, warning

_LEAST_PYTHON = (3, 11)
_LEAST_FREE_MIB = 10 * 1024
_LEAST_OPEN_FILES = 4096
# Reached over a protocol, slow for the many small reads and the large mappings of weights.
_SLOW_FILE_SYSTEMS = frozenset(
    {"9p", "drvfs", "v9fs", "fuse.drvfs", "virtiofs", "cifs", "smb3", "nfs", "nfs4", "fuse.sshfs", "fuse.grpcfuse"}
)
# SQLite's log and unix sockets need what only a local file system has.
_NOT_LOCAL = _SLOW_FILE_SYSTEMS - {"virtiofs"}
_LOCAL_ONLY = frozenset({"state", "sockets"})


def _python(facts: HostFacts) -> Iterator[Finding]:
    version = ".".join(map(str, facts.python))
    if facts.python < _LEAST_PYTHON:
        yield problem("python", version, "install Python 3.11 or newer, and make the environment anew")
    else:
        yield good("python", version)


def _folders(facts: HostFacts) -> Iterator[Finding]:
    for folder in facts.folders:
        yield _folder(folder, wsl=facts.wsl is not None)


def _folder(folder: FolderFacts, *, wsl: bool) -> Finding:
    subject = f"{folder.purpose} folder"
    free = f", {folder.free_mib if folder.free_mib is not None else '?'} MiB free" if folder.kept else ""
    seen = f"{folder.path} on {folder.file_system}{free}"
    if not folder.usable:
        return _unusable(folder, subject, seen)
    place = "inside WSL's own file system, for instance under your home" if wsl else "on a local disk"
    if folder.purpose in _LOCAL_ONLY and folder.file_system in _NOT_LOCAL:
        return problem(subject, f"{seen}; databases and sockets do not work there", f"keep it {place}")
    if folder.file_system in _SLOW_FILE_SYSTEMS:
        return warning(subject, f"{seen}; that is slow for weights", f"keep it {place}")
    if folder.kept and folder.free_mib is not None and folder.free_mib < _LEAST_FREE_MIB:
        return warning(
            subject, seen, "models, environments and images take gigabytes; free some space or choose another place"
        )
    return good(subject, seen)


def _unusable(folder: FolderFacts, subject: str, seen: str) -> Finding:
    if folder.kept:
        return problem(subject, f"{seen}; it cannot be written to", "give it to the user that runs the service")
    return problem(subject, f"{seen}; it cannot be read", "correct model_path, or let the service's user read it")


def _limits(facts: HostFacts) -> Iterator[Finding]:
    if facts.open_files < _LEAST_OPEN_FILES:
        yield warning(
            "open files",
            f"at most {facts.open_files}",
            f"raise it to {_LEAST_OPEN_FILES} or more: `ulimit -n`, LimitNOFILE in the unit, or ulimits.nofile in"
            " compose",
        )


def _surroundings(facts: HostFacts) -> Iterator[Finding]:
    if facts.docker is not None:  # engines in containers see none of them
        return
    if "VLLM_CPU_KVCACHE_SPACE" in facts.environ:
        yield warning(
            "environment",
            "VLLM_CPU_KVCACHE_SPACE is set: vLLM prefers it to the budget of its model",
            "unset it for the service",
        )
    if "CUDA_VISIBLE_DEVICES" in facts.environ:
        yield warning(
            "environment",
            "CUDA_VISIBLE_DEVICES is set: engines set their own, by NVML's numbers",
            "unset it, and limit devices with devices.budgets_mib instead",
        )


HOST_LOOKS = (_python, _folders, _limits, _surroundings)
