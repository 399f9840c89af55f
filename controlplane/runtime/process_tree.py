"""Finds the processes of our replicas in /proc, by label and by descent, and measures their memory.

A process that lost its label (a cleaned environment) still counts while a
labelled one is its ancestor. Reads only; blocking, so callers use a thread.
"""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.runtime.process_label import Label, Stranger, from_environment

_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1024 * 1024
_KERNEL_THREAD = 0x00200000
# The longest one look waits for processes in between; they take microseconds, or as long as a device needs to free.
_SETTLE_SECONDS = 1.0
_GLANCE_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Process:
    """One process; `started` is in clock ticks since boot and tells a recycled pid from the first."""

    pid: int
    started: int
    parent: int
    session: int

    @property
    def identity(self) -> tuple[int, int]:
        """What stays the same as long as it lives; its parent does not."""
        return self.pid, self.started


@dataclass(frozen=True, slots=True)
class Tree:
    """All living processes of one generation of one replica."""

    label: Label
    processes: tuple[Process, ...]


def find_trees(store_id: str, known: Mapping[tuple[int, int], Label] | None = None) -> list[Tree]:
    """Every replica's tree that is alive now, with the processes that are `known` by identity, label or none.

    A process forked while we look may be missed: look again to be sure.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    labels = {pid: from_environment(_environ(pid, deadline), store_id) for pid in _pids()}
    if not known and not any(isinstance(label, Label) for label in labels.values()):
        return []
    processes = {pid: process for pid in labels if (process := read_process(pid)) is not None}
    for process in processes.values():
        if known and process.identity in known:
            labels[process.pid] = known[process.identity]
    return _trees(processes, labels)


def _trees(processes: Mapping[int, Process], labels: Mapping[int, Label | Stranger]) -> list[Tree]:
    members: dict[tuple[str, int], tuple[Label, list[Process]]] = {}
    for process in processes.values():
        label = _inherited(process, processes, labels)
        if label is not None:
            members.setdefault(label.key, (label, []))[1].append(process)
    return [Tree(label, tuple(found)) for label, found in members.values()]


def read_process(pid: int) -> Process | None:
    """None when it is gone, a zombie included: its memory is back, only its exit code is left."""
    stat = _stat(pid)
    if stat is None or stat.state in b"ZX":
        return None
    return stat.process


def start_time(pid: int) -> int | None:
    """Start in ticks since boot, of a zombie too; None when there is no such pid."""
    stat = _stat(pid)
    return None if stat is None else stat.process.started


def wait_until_it_shows_its_label(pid: int) -> None:
    """Return once a process just started can be found by others, or is gone."""
    _environ(pid, time.monotonic() + _SETTLE_SECONDS)


def memory_mib(trees: Iterable[Tree]) -> dict[str, int]:
    """Host memory by replica: shared pages are divided among those who share them."""
    used: dict[str, int] = {}
    for tree in trees:
        bytes_used = sum(_memory_bytes(process.pid) for process in tree.processes)
        used[tree.label.replica_id] = used.get(tree.label.replica_id, 0) + -(-bytes_used // _MIB)
    return used


def _inherited(
    process: Process, processes: Mapping[int, Process], labels: Mapping[int, Label | Stranger]
) -> Label | None:
    """The label of the process or of its nearest labelled ancestor, unless another store's stands between."""
    current: Process | None = process
    while current is not None:
        label = labels.get(current.pid, Stranger.UNLABELLED)
        if label is Stranger.OTHER_STORE or current.pid == os.getpid():
            return None
        if isinstance(label, Label):
            return label
        current = processes.get(current.parent)
    return None


def _memory_bytes(pid: int) -> int:
    for line in _read(pid, "smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    resident = _read(pid, "statm").split()
    return int(resident[1]) * _PAGE if resident else 0


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]


def _environ(pid: int, deadline: float) -> bytes:
    """Its environment; empty when it has none, or is another user's and so none of ours.

    For a moment, while it changes its program and again while it exits, a process shows none at all. Taken for a
    stranger then, an engine just started would be overlooked, and one that still frees its GPU be called gone.
    """
    while True:
        try:
            environ = (_PROC / str(pid) / "environ").read_bytes()
        except PermissionError:
            return b""
        except (FileNotFoundError, ProcessLookupError):
            environ = b""
        if environ or not _is_in_between(pid) or time.monotonic() > deadline:
            return environ
        time.sleep(_GLANCE_SECONDS)


def _is_in_between(pid: int) -> bool:
    stat = _stat(pid)
    return stat is not None and stat.is_in_between


@dataclass(frozen=True, slots=True)
class _Stat:
    """What /proc/PID/stat says."""

    process: Process
    state: bytes
    is_in_between: bool


def _stat(pid: int) -> _Stat | None:
    stat = _read(pid, "stat")
    if not stat:
        return None
    # The second field, the name, may hold blanks and brackets: count from its last bracket.
    fields = stat[stat.rindex(b")") + 2 :].split()
    process = Process(pid=pid, started=int(fields[19]), parent=int(fields[1]), session=int(fields[3]))
    has_no_environment_yet_or_any_more = int(fields[48]) == 0 and not int(fields[6]) & _KERNEL_THREAD
    return _Stat(process, fields[0], has_no_environment_yet_or_any_more and fields[0] not in b"ZX")


def _read(pid: int, name: str) -> bytes:
    """Empty when the process is gone, or another user's: then it is none of ours."""
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
