"""Ends a replica's whole tree: first asks, then kills until looking twice shows nothing.

The leader is asked first, alone, as `docker stop` does: engines drain in an
order of their own. What it leaves behind is asked next. Without a leader nobody
can reach the rest, so it is killed at once. The caller says how to find them.
"""

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence

from controlplane.runtime.patience import Patience
from controlplane.runtime.process_exit import opened, send, until_gone
from controlplane.runtime.process_tree import Process, start_time

Find = Callable[[], Awaitable[Sequence[Process]]]

# A process that forks while we read /proc can hide its child from one look, hardly from two.
_EMPTY_LOOKS = 2
_KILLED_WITHIN_SECONDS = 1.0


async def end_tree(find: Find, leader: Process | None, patience: Patience) -> None:
    """Return only when no process of the tree is left; a process the kernel cannot kill is waited for."""
    await find()  # so that the whole tree is known before its leader goes
    if leader is not None:
        await patience.cut_off(_ask(find, leader))
    await _kill(find, leader)


async def _ask(find: Find, leader: Process) -> None:
    asked: Sequence[Process] = [leader]
    while asked:
        with opened(asked) as pidfds:
            for pidfd in pidfds:
                send(pidfd, signal.SIGTERM)
            await until_gone(pidfds)
        asked = await find()


async def _kill(find: Find, leader: Process | None) -> None:
    empty_looks = 0
    while empty_looks < _EMPTY_LOOKS:
        found = await find()
        empty_looks = 0 if found else empty_looks + 1
        with opened(found) as pidfds:
            # All are frozen before the first is killed, so that none forks while the others die.
            for pidfd in pidfds:
                send(pidfd, signal.SIGSTOP)
            _kill_groups([*found, leader] if leader is not None else found)
            for pidfd in pidfds:
                send(pidfd, signal.SIGKILL)
            await Patience(_KILLED_WITHIN_SECONDS).cut_off(until_gone(pidfds))


def _kill_groups(processes: Sequence[Process]) -> None:
    """Kill the groups of session leaders as one: the kernel does that atomically, so no fork escapes it.

    A group outlives its leader, and while it lives the leader's pid is not used again.
    """
    for process in processes:
        if process.pid == process.session and start_time(process.pid) in (process.started, None):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
