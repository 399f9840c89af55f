"""CPU time as the kernel counts it per thread: exact where the machine is busy and wall clocks lie."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_PROC = Path("/proc")


def session_seconds(leader: int) -> float:
    """CPU seconds used so far by the processes under `leader` that share its session.

    A replica runs in a session of its own, so a control plane is counted without its engines.
    Threads that have ended are not counted; long-lived ones do the work here.
    """
    return sum(_process_seconds(pid) for pid in _session(leader))


def pin(pid: int, core: int | None) -> None:
    """Bind every thread of a running process to one core; None leaves it to the kernel."""
    if core is None:
        return
    for task in (_PROC / str(pid) / "task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def _session(leader: int) -> Iterator[int]:
    session = os.getsid(leader)
    yield leader
    for child in psutil.Process(leader).children(recursive=True):
        if os.getsid(child.pid) == session:
            yield child.pid


def _process_seconds(pid: int) -> float:
    stats = (_PROC / str(pid) / "task").glob("*/schedstat")
    return sum(int(stat.read_text().split(maxsplit=1)[0]) for stat in stats) / 1e9
