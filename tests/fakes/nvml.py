"""FakeNvml: stands in for the `pynvml` module, with GPUs and failures that the test sets."""

from collections.abc import Sequence
from dataclasses import dataclass, field

_MIB = 1024 * 1024


class FakeNvmlError(Exception):
    """As NVMLError, which every call may raise."""


@dataclass(frozen=True)
class Memory:
    total: int
    used: int


@dataclass(frozen=True)
class Running:
    """A process on a GPU; bytes, None or absurd where the platform hides them."""

    pid: int
    usedGpuMemory: int | None  # noqa: N815


@dataclass
class Gpu:
    """One card. `processes` maps pid to MiB; `raw_processes` holds figures as NVML gives them."""

    name: str | bytes = "NVIDIA RTX Test"
    uuid: str | bytes = "GPU-1234"
    total_mib: int = 24_576
    used_mib: int = 512
    processes: dict[int, int] = field(default_factory=dict)
    raw_processes: list[Running] = field(default_factory=list)


class FakeNvml:
    """Implements `NvmlLibrary`. Calls named in `failing` raise; `sessions` counts successful inits."""

    NVMLError = FakeNvmlError

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = list(gpus)
        self.failing: set[str] = set()
        self.sessions = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self._may_fail("nvmlInit")
        self.sessions += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._may_fail("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802
        self._may_fail("nvmlDeviceGetHandleByIndex")
        return self.gpus[index]

    def nvmlDeviceGetName(self, handle: object) -> str | bytes:  # noqa: N802
        self._may_fail("nvmlDeviceGetName")
        return _gpu(handle).name

    def nvmlDeviceGetUUID(self, handle: object) -> str | bytes:  # noqa: N802
        self._may_fail("nvmlDeviceGetUUID")
        return _gpu(handle).uuid

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Memory:  # noqa: N802
        self._may_fail("nvmlDeviceGetMemoryInfo")
        return Memory(_gpu(handle).total_mib * _MIB, _gpu(handle).used_mib * _MIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> Sequence[Running]:  # noqa: N802
        self._may_fail("nvmlDeviceGetComputeRunningProcesses")
        gpu = _gpu(handle)
        return [*(Running(pid, mib * _MIB) for pid, mib in gpu.processes.items()), *gpu.raw_processes]

    def _may_fail(self, call: str) -> None:
        if call in self.failing:
            raise FakeNvmlError(call)


def _gpu(handle: object) -> Gpu:
    assert isinstance(handle, Gpu)
    return handle
