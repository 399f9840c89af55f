"""The host's memory as a device: the machine's, or the control group's where that is smaller.

Engines are children of the control plane, so its control group's limit binds
them too. Reads only.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from controlplane.ports import DeviceReading

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in all and bytes that a new process could get."""

    total: int
    available: int


class HostMemory:
    """Implements `controlplane.ports.Devices`: one device, "host". `root` is where /proc and /sys are mounted."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    async def read(self) -> Sequence[DeviceReading]:
        memory = await asyncio.to_thread(_measure, self._root)
        total = memory.total // _MIB
        used = -(-(memory.total - memory.available) // _MIB)
        return [DeviceReading("host", "host", 0, "host memory", total, min(max(used, 0), total))]


def _measure(root: Path) -> Memory:
    machine = psutil.virtual_memory()
    scopes = [Memory(machine.total, machine.available), *_control_groups(root)]
    return Memory(min(scope.total for scope in scopes), min(scope.available for scope in scopes))


def _control_groups(root: Path) -> Iterator[Memory]:
    """Every limit that binds us, from our own control group up to the top."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _limits(root / "sys/fs/cgroup", path, _v2)
        elif "memory" in controllers.split(","):
            yield from _limits(root / "sys/fs/cgroup/memory", path, _v1)


def _limits(mount: Path, path: str, files: "_Files") -> Iterator[Memory]:
    # Inside a container the path may be the host's and absent here: then the mount itself is our group.
    own = mount / path.lstrip("/")
    for group in (own, *own.parents):
        if not group.is_relative_to(mount):
            return
        if (memory := files.read(group)) is not None:
            yield memory


@dataclass(frozen=True, slots=True)
class _Files:
    """How one version of control groups names its files."""

    limit: str
    usage: str
    reclaimable: str

    def read(self, group: Path) -> Memory | None:
        """None where there is no limit."""
        limit, usage = _text(group / self.limit).strip(), _text(group / self.usage).strip()
        if not limit.isdecimal() or not usage.isdecimal():
            return None
        statistics = dict(line.split(" ", 1) for line in _text(group / "memory.stat").splitlines())
        held = int(usage) - int(statistics.get(self.reclaimable, 0))
        return Memory(int(limit), max(0, int(limit) - held))


_v1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_v2 = _Files("memory.max", "memory.current", "inactive_file")


def _text(path: Path) -> str:
    """Empty when it is not there: control groups differ from host to host."""
    try:
        return path.read_text()
    except OSError:
        return ""
