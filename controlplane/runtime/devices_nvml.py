"""NVIDIA GPUs as devices, through NVML.

Every call may fail on its own (WSL2 hides processes, a driver update breaks
the session): what one call does not tell is unknown, and the device stays.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from controlplane.ports import DeviceReading

T = TypeVar("T")
_MIB = 1024 * 1024
# Drivers that do not know a process's memory report values near 2^64.
_ABSURD_BYTES = 2**60


class MemoryFigures(Protocol):
    """Bytes of one device."""

    total: int
    used: int


class ProcessFigures(Protocol):
    """One process on a device; bytes, None where the platform hides them."""

    pid: int
    usedGpuMemory: int | None  # noqa: N815 - NVML's own name


class NvmlLibrary(Protocol):
    """The part of `pynvml` that is used."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...  # noqa: N802
    def nvmlDeviceGetName(self, handle: object) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: object) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: object) -> MemoryFigures: ...  # noqa: N802
    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> Sequence[ProcessFigures]: ...  # noqa: N802


class NvmlDevices:
    """Implements `controlplane.ports.Devices`: "gpu0", "gpu1" and on, in NVML's (the PCI bus's) order.

    None at all without the library or a driver; each read tries again.
    `hides_processes` is for platforms whose process list is empty but means nothing.
    """

    def __init__(self, library: NvmlLibrary, *, hides_processes: bool = False) -> None:
        self._library = library
        self._hides_processes = hides_processes
        self._ready = False
        self._seen: dict[int, DeviceReading] = {}
        self._one_read_at_a_time = threading.Lock()

    async def read(self) -> Sequence[DeviceReading]:
        return await asyncio.to_thread(self._read)

    def _read(self) -> list[DeviceReading]:
        with self._one_read_at_a_time:
            for index in range(self._count()):
                if (reading := self._measure(index)) is not None:
                    self._seen[index] = reading
            return [self._seen[index] for index in sorted(self._seen)]

    def _count(self) -> int:
        """How many to look at. A session that broke is opened anew at the next read, after a driver's update say."""
        self._ready = self._ready or self._ask(self._opened) is not None
        count = self._ask(self._library.nvmlDeviceGetCount) if self._ready else None
        self._ready = count is not None
        return max(count or 0, len(self._seen))

    def _opened(self) -> bool:
        self._library.nvmlInit()
        return True

    def _measure(self, index: int) -> DeviceReading | None:
        """None for a device whose size was never learned: nothing can be planned on it."""
        handle = self._ask(lambda: self._library.nvmlDeviceGetHandleByIndex(index)) if self._ready else None
        if handle is None:
            return self._unreadable(index)
        memory = self._ask(lambda: self._library.nvmlDeviceGetMemoryInfo(handle))
        if memory is None:
            return self._unreadable(index)
        return DeviceReading(
            device_id=f"gpu{index}",
            kind="cuda",
            index=index,
            name=self._name(index, handle),
            total_mib=memory.total // _MIB,
            used_mib=-(-memory.used // _MIB),
            process_mib=self._processes(handle, memory.total),
        )

    def _unreadable(self, index: int) -> DeviceReading | None:
        last = self._seen.get(index)
        return None if last is None else replace(last, used_mib=None, process_mib=None)

    def _name(self, index: int, handle: object) -> str:
        """Model and UUID, as far as they can be read."""
        name = self._ask(lambda: _text(self._library.nvmlDeviceGetName(handle))) or f"CUDA device {index}"
        uuid = self._ask(lambda: _text(self._library.nvmlDeviceGetUUID(handle)))
        return f"{name} ({uuid})" if uuid else name

    def _processes(self, handle: object, total: int) -> Mapping[int, int] | None:
        """MiB by pid; None as soon as one process's figure is unknown, for a sum without it would be a lie."""
        if self._hides_processes:
            return None
        running = self._ask(lambda: self._library.nvmlDeviceGetComputeRunningProcesses(handle))
        if running is None:
            return None
        used: dict[int, int] = {}
        for process in running:
            memory = process.usedGpuMemory
            if memory is None or memory >= _ABSURD_BYTES or memory > total:
                return None
            used[process.pid] = used.get(process.pid, 0) + -(-memory // _MIB)
        return used

    def _ask(self, call: Callable[[], T]) -> T | None:
        """One call's answer, or None when this one call fails."""
        try:
            return call()
        except self._library.NVMLError:
            return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
