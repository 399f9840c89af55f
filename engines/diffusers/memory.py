"""How much memory the engine may use and uses. On CUDA the allocator enforces the cap; on a CPU we count.

Counting: the first time something of a new shape is done, every tensor it makes is counted while it lives, and it is
stopped with a MemoryError once there would be too many. Later, the peak is known and refused before it starts.
"""

import ctypes
import gc
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engines.diffusers.errors import LoadFailed

T = TypeVar("T")
MIB = 1024 * 1024

# What the CUDA context and the libraries' workspaces take beside the allocator; measured between 400 and 600 MiB.
CONTEXT_MIB = 600
_SHAPES_REMEMBERED = 512
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Memory(Protocol):
    """The memory of the device that the pipeline runs on."""

    def within(self, shape: Hashable, action: Callable[[], T], /) -> T:
        """Do it; MemoryError or torch's own error when it does not fit. `shape`: what its need follows from."""
        ...

    def used_mib(self) -> int: ...

    def release(self) -> None:
        """Give back what is kept for reuse."""
        ...


class DeviceMemory:
    """Of the first CUDA device; the cap is the allocator's, so the process cannot grow past it."""

    def __init__(self, cap_mib: int | None) -> None:
        self._cap_mib = cap_mib
        torch.cuda.init()
        if cap_mib is None:
            return
        total_mib = torch.cuda.get_device_properties(0).total_memory / MIB
        if cap_mib <= CONTEXT_MIB:
            raise LoadFailed(f"memory_mib is {cap_mib}, but CUDA alone takes about {CONTEXT_MIB}: raise it")
        torch.cuda.set_per_process_memory_fraction(min((cap_mib - CONTEXT_MIB) / total_mib, 1.0))

    def within(self, _shape: Hashable, action: Callable[[], T]) -> T:
        return action()

    def used_mib(self) -> int:
        return CONTEXT_MIB + int(torch.cuda.memory_reserved()) // MIB

    def release(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()


class HostMemory:
    """Of this process: `free_mib` is what it may still take, beyond what it held when this was made."""

    def __init__(self, free_mib: int | None) -> None:
        self._free_bytes = None if free_mib is None else free_mib * MIB
        self._peaks: OrderedDict[Hashable, int] = OrderedDict()

    def within(self, shape: Hashable, action: Callable[[], T]) -> T:
        if self._free_bytes is None:
            return action()
        peak = self._peaks.get(shape)
        if peak is None:
            return self._counted(shape, action)
        if peak > self._free_bytes:
            raise MemoryError(_too_much(peak, self._free_bytes))
        return action()

    def used_mib(self) -> int:
        return process_mib()

    def release(self) -> None:
        gc.collect()
        _trim()

    def _counted(self, shape: Hashable, action: Callable[[], T]) -> T:
        assert self._free_bytes is not None
        counter = _Counter(self._free_bytes)
        try:
            with counter:
                result = action()
        except MemoryError:
            self._remember(shape, counter.peak)
            raise
        # Not after other errors: what stopped early says nothing about the next of this shape.
        self._remember(shape, counter.peak)
        return result

    def _remember(self, shape: Hashable, peak: int) -> None:
        self._peaks[shape] = peak
        if len(self._peaks) > _SHAPES_REMEMBERED:
            self._peaks.popitem(last=False)


class _Counter(TorchDispatchMode):  # type: ignore[misc]
    """Counts the bytes of tensors made inside, as long as they live; raises MemoryError past `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._most_bytes = most_bytes
        self._live: dict[int, int] = {}
        self._now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in given:
                self._made(leaf.untyped_storage())
        return result

    def _made(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._live:
            return
        self._live[storage._cdata] = storage.nbytes()
        weakref.finalize(storage, self._gone, storage._cdata)
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        if self._now > self._most_bytes:
            raise MemoryError(_too_much(self._now, self._most_bytes))

    def _gone(self, storage: int) -> None:
        self._now -= self._live.pop(storage, 0)


def host_memory(cap_mib: int | None) -> HostMemory:
    """What is left for drawing under the cap, once the weights are there; LoadFailed when nothing is."""
    if cap_mib is None:
        return HostMemory(None)
    held_mib = process_mib()
    if held_mib >= cap_mib:
        raise LoadFailed(f"the loaded pipeline holds {held_mib} MiB and memory_mib is {cap_mib}: raise it")
    return HostMemory(cap_mib - held_mib)


def process_mib() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * _PAGE_BYTES // MIB


def _trim() -> None:
    """glibc keeps freed memory for itself until it is asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _too_much(needed: int, allowed: int) -> str:
    return f"it needs {needed // MIB} MiB or more, and {allowed // MIB} MiB are left under the memory cap"
