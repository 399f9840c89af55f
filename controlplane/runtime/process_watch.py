"""Reports each main process's end once: what its exit code says and the last lines of its log.

Silent about replicas that are being stopped: there, the stop's return is the report.
"""

import asyncio
from collections.abc import Awaitable, Callable

from controlplane.ports import ReplicaExit
from controlplane.runtime.process_exit import ExitWatch, in_words

# Enough to reach from an engine's last words back over its traceback to the cause.
_REASON_LINES = 100

Key = tuple[str, int]
Tail = Callable[[str, int], Awaitable[list[str]]]


class ExitReports:
    """Watches main processes by (replica, generation) and calls `on_exit` in the event loop's thread."""

    def __init__(self, on_exit: Callable[[ReplicaExit], None], tail: Tail) -> None:
        self._on_exit = on_exit
        self._tail = tail
        self._watches: dict[Key, ExitWatch] = {}
        self._ended: set[Key] = set()
        self._muted: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def knows(self, key: Key) -> bool:
        """Whether it is watched, or its end was reported since it was last forgotten."""
        return key in self._watches or key in self._ended

    def watched(self) -> list[str]:
        """The replicas whose main process lives."""
        return [replica_id for replica_id, _ in self._watches]

    def watch(self, key: Key, pidfd: int) -> None:
        """Report when the process behind `pidfd`, ours from now on, ends."""
        self._watches[key] = ExitWatch(pidfd, lambda code: self.ended(key, code))

    def ended(self, key: Key, code: int | None) -> None:
        """Its main process is gone."""
        self._watches.pop(key, None)
        self._ended.add(key)
        task = asyncio.get_running_loop().create_task(self._report(key, code))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def mute(self, replica_id: str) -> None:
        """Report nothing about it until it is forgotten."""
        self._muted.add(replica_id)

    async def forget(self, replica_id: str) -> None:
        """Wait until its main processes are reaped, then know nothing of it."""
        for watch in [watch for key, watch in self._watches.items() if key[0] == replica_id]:
            await watch.gone()
        self._ended = {key for key in self._ended if key[0] != replica_id}
        self._muted.discard(replica_id)

    def close(self) -> None:
        for watch in self._watches.values():
            watch.close()
        for task in self._tasks:
            task.cancel()

    async def _report(self, key: Key, code: int | None) -> None:
        replica_id, generation = key
        lines = await self._tail(replica_id, _REASON_LINES)
        if key in self._ended and replica_id not in self._muted:
            self._on_exit(ReplicaExit(replica_id, generation, code, _reason(code, lines)))


def _reason(code: int | None, lines: list[str]) -> str:
    words = in_words(code)
    if any("address already in use" in line.lower() for line in lines):
        words += "; another process took its address first, and the next start picks a new one"
    return "\n".join([f"{words}; its log ends:", *lines]) if lines else f"{words}; its log is empty"
