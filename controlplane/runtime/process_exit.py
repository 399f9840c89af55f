"""Waiting for processes to end and signalling them, through pidfds: no polling, and never a recycled pid.

Works for children and for adopted processes alike; only a child's exit code can be learned.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence

from controlplane.runtime.process_tree import Process, start_time


def open_pidfd(process: Process) -> int | None:
    """A pidfd of exactly this process; None when it is gone."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    # Checked after opening: from here on the descriptor means this process whatever becomes of the pid.
    if start_time(process.pid) != process.started:
        os.close(pidfd)
        return None
    return pidfd


def reap(pidfd: int) -> int | None:
    """The exit code of a child that ended, negative for a signal; None when it is not our child."""
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def send(pidfd: int, number: signal.Signals) -> None:
    """Signal it if it still lives."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


@contextlib.contextmanager
def opened(processes: Iterable[Process]) -> Iterator[list[int]]:
    """Pidfds of those that still live."""
    with contextlib.ExitStack() as stack:
        pidfds = []
        for process in processes:
            if (pidfd := open_pidfd(process)) is not None:
                stack.callback(os.close, pidfd)
                pidfds.append(pidfd)
        yield pidfds


async def until_gone(pidfds: Sequence[int]) -> None:
    """Wait until every one has ended. Children among them (we may be PID 1) are reaped."""
    for pidfd in pidfds:
        await _until_readable(pidfd)
        reap(pidfd)


async def _until_readable(pidfd: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(pidfd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(pidfd)


class ExitWatch:
    """Calls `on_exit(code)` once, when the process behind `pidfd` ends. Owns the descriptor."""

    def __init__(self, pidfd: int, on_exit: Callable[[int | None], None]) -> None:
        self._pidfd = pidfd
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._loop.add_reader(pidfd, self._exited)

    async def gone(self) -> None:
        """Wait until it has ended and was reaped."""
        await self._ended.wait()

    def close(self) -> None:
        """Stop watching."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _exited(self) -> None:
        code = reap(self._pidfd)
        self.close()
        self._ended.set()
        self._on_exit(code)


def in_words(code: int | None) -> str:
    """What an exit code says about a main process that was not asked to end."""
    if code is None:
        return "its main process ended (it was adopted, so its exit code is unknown)"
    if code >= 0:
        return f"its main process ended with exit code {code}"
    name = signal.Signals(-code).name if -code in signal.Signals._value2member_map_ else f"signal {-code}"
    hint = " (the kernel does that when memory runs out)" if -code == signal.SIGKILL else ""
    return f"its main process was killed by {name}{hint}"
