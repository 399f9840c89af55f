"""Starts and stops under way: at most one of each for a replica, whoever asks and however often.

A start waits for a stop, a stop ends a start, and callers of the same thing share it. Knows nothing of how
replicas are run.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from controlplane.errors import RuntimeFailure
from controlplane.ports import ReplicaOrder, RunningReplica
from controlplane.runtime.patience import Patience

T = TypeVar("T")
Progress = Callable[[str], None]
Start = Callable[[ReplicaOrder, Progress], Awaitable[RunningReplica]]
Stop = Callable[[str, Patience], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Start:
    generation: int
    task: asyncio.Task[RunningReplica]


@dataclass(frozen=True, slots=True)
class _Stop:
    task: asyncio.Task[None]
    patience: Patience


class InFlight:
    """Runs `start` and `stop`, which raise RuntimeFailure and leave nothing behind when they are cancelled."""

    def __init__(self, start: Start, stop: Stop) -> None:
        self._run_start = start
        self._run_stop = stop
        self._starts: dict[str, _Start] = {}
        self._stops: dict[str, _Stop] = {}

    def __contains__(self, replica_id: str) -> bool:
        return replica_id in self._starts or replica_id in self._stops

    async def start(self, order: ReplicaOrder, progress: Progress) -> RunningReplica:
        """Cancelling the caller cancels the start. Raises RuntimeFailure."""
        while (stop := self._stops.get(order.replica_id)) is not None:
            await _outcome(stop.task, f"cannot start replica {order.replica_id}: its stop was broken off")
        start = self._starts.get(order.replica_id) or self._begin_start(order, progress)
        if start.generation != order.generation:
            raise RuntimeFailure(
                f"cannot start replica {order.replica_id}: its generation {start.generation} is starting; stop it first"
            )
        try:
            return await _outcome(start.task, f"cannot start replica {order.replica_id}: stopped while it started")
        except asyncio.CancelledError:
            await cancel(start.task)
            raise

    async def stop(self, replica_id: str, grace_seconds: float) -> None:
        """A later caller may shorten the grace. Raises RuntimeFailure."""
        stop = self._stops.get(replica_id)
        if stop is None:
            patience = Patience(grace_seconds)
            stop = _Stop(asyncio.create_task(self._stop(replica_id, patience)), patience)
            self._stops[replica_id] = stop
            stop.task.add_done_callback(lambda _: self._stops.pop(replica_id))
        stop.patience.shorten(grace_seconds)
        await _outcome(stop.task, f"cannot stop replica {replica_id}: the control plane is closing")

    async def close(self) -> None:
        """Break off everything and wait until it is over."""
        for task in [*(start.task for start in self._starts.values()), *(stop.task for stop in self._stops.values())]:
            await cancel(task)

    def _begin_start(self, order: ReplicaOrder, progress: Progress) -> _Start:
        start = _Start(order.generation, asyncio.create_task(self._start(order, progress)))
        self._starts[order.replica_id] = start
        start.task.add_done_callback(lambda _: self._starts.pop(order.replica_id))
        return start

    async def _start(self, order: ReplicaOrder, progress: Progress) -> RunningReplica:
        return await self._run_start(order, progress)

    async def _stop(self, replica_id: str, patience: Patience) -> None:
        if (start := self._starts.get(replica_id)) is not None:
            await cancel(start.task)
        await self._run_stop(replica_id, patience)


async def cancel(task: asyncio.Task[T]) -> None:
    """Cancel it once, for a second time would break off its cleaning up, and wait until it is over."""
    if not task.done() and not task.cancelling():
        task.cancel()
    await asyncio.wait([task])


async def _outcome(task: asyncio.Task[T], if_cancelled: str) -> T:
    """Its result, shared: the caller's own cancellation leaves it running; being cancelled by others is a failure."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if caller is not None and not caller.cancelling():
            raise RuntimeFailure(if_cancelled) from None
        raise
