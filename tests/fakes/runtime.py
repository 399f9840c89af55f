"""FakeRuntime: replicas without processes, moved only by explicit calls of the test.

Passes the same contract suite as the process runtime. `FakeHost` is what
outlives a control plane: a second FakeRuntime on the same host adopts.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from adapters.endpoint import Endpoint
from controlplane.errors import RuntimeFailure
from controlplane.ports import ReplicaExit, ReplicaOrder, RunningReplica


@dataclass
class FakeProcess:
    """One replica on the fake host. `owner` started it and alone learns its exit code."""

    replica: RunningReplica
    owner: "FakeRuntime"
    memory_mib: int = 64
    device_memory_mib: dict[str, int] = field(default_factory=dict)


@dataclass
class FakeHost:
    """The machine: processes by (store, replica) and logs, alive whatever becomes of a runtime."""

    processes: dict[tuple[str, str], FakeProcess] = field(default_factory=dict)
    logs: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    watchers: "list[FakeRuntime]" = field(default_factory=list)
    hides_device_memory: bool = False


def socket_of(order: ReplicaOrder) -> Endpoint:
    return Endpoint.unix(f"/fake/{order.replica_id}.sock")


class FakeRuntime:
    """Implements `controlplane.ports.Runtime`.

    By default a start or stop is done at once. With `hold_starts` or
    `hold_stops` it waits for `finish_start`, `fail_start` or `finish_stop`.
    `starts` and `stops` record every call, in order. Exits are reported
    from inside `crash`, before it returns.
    """

    def __init__(
        self,
        on_exit: Callable[[ReplicaExit], None],
        *,
        host: FakeHost | None = None,
        store_id: str = "fake",
        endpoint_of: Callable[[ReplicaOrder], Endpoint] = socket_of,
    ) -> None:
        self.host = host or FakeHost()
        self.hold_starts = False
        self.hold_stops = False
        self.starts: list[ReplicaOrder] = []
        self.stops: list[str] = []
        self.progress: dict[str, Callable[[str], None]] = {}
        self._on_exit = on_exit
        self._store_id = store_id
        self._endpoint_of = endpoint_of
        self._refusals: dict[str, str] = {}
        self._starting: dict[str, asyncio.Future[None]] = {}
        self._stopping: dict[str, asyncio.Future[None]] = {}
        self._watched: set[str] = set()
        self._calls = asyncio.Condition()
        self.host.watchers.append(self)

    async def start(self, order: ReplicaOrder, progress: Callable[[str], None]) -> RunningReplica:
        self.starts.append(order)
        self.progress[order.replica_id] = progress
        await self._announce()
        if (found := self._found(order)) is not None:
            return found
        await self._until_start_is_let_go(order.replica_id)
        if (reason := self._refusals.pop(order.replica_id, None)) is not None:
            raise RuntimeFailure(f"cannot start replica {order.replica_id}: {reason}")
        return self._run(order)

    async def stop(self, replica_id: str, grace_seconds: float) -> None:
        self.stops.append(replica_id)
        await self._announce()
        if (starting := self._starting.get(replica_id)) is not None and not starting.done():
            starting.set_exception(RuntimeFailure(f"cannot start replica {replica_id}: stopped while it started"))
        if (self._store_id, replica_id) not in self.host.processes:
            return
        self._watched.discard(replica_id)
        if self.hold_stops:
            await asyncio.shield(self._stopping.setdefault(replica_id, asyncio.get_running_loop().create_future()))
        self.host.processes.pop((self._store_id, replica_id), None)

    async def running(self) -> Sequence[RunningReplica]:
        mine = self._mine()
        self._watched.update(mine.keys() - self._stopping.keys())
        return [process.replica for process in mine.values()]

    async def memory_mib(self) -> Mapping[str, int]:
        return {replica_id: process.memory_mib for replica_id, process in self._mine().items()}

    async def device_memory_mib(self, device_id: str) -> Mapping[str, int] | None:
        if self.host.hides_device_memory:
            return None
        return {
            replica_id: process.device_memory_mib[device_id]
            for replica_id, process in self._mine().items()
            if device_id in process.device_memory_mib
        }

    async def log_tail(self, replica_id: str, lines: int) -> list[str]:
        return self.host.logs.get((self._store_id, replica_id), [])[-lines:] if lines > 0 else []

    async def close(self) -> None:
        for starting in self._starting.values():
            starting.cancel()
        self.abandon()

    def abandon(self) -> None:
        """The control plane died: nothing is reported any more, replicas keep running."""
        if self in self.host.watchers:
            self.host.watchers.remove(self)

    def fail_next_start(self, replica_id: str, reason: str) -> None:
        self._refusals[replica_id] = reason

    def finish_start(self, replica_id: str) -> None:
        """Let a held start succeed."""
        self._starting[replica_id].set_result(None)

    def fail_start(self, replica_id: str, reason: str) -> None:
        """Let a held start fail with RuntimeFailure."""
        self.fail_next_start(replica_id, reason)
        self.finish_start(replica_id)

    def finish_stop(self, replica_id: str) -> None:
        """Let a held stop end: the process is gone."""
        self._stopping.pop(replica_id).set_result(None)

    def crash(self, replica_id: str, code: int = 1, reason: str = "") -> None:
        """The main process dies now; every runtime that watches it is told."""
        process = self.host.processes.pop((self._store_id, replica_id))
        for runtime in list(self.host.watchers):
            runtime._report(process, code, reason)

    def say(self, replica_id: str, line: str) -> None:
        """The engine writes a line to its log."""
        self.host.logs[self._store_id, replica_id].append(line)

    def set_memory(self, replica_id: str, mib: int) -> None:
        self._mine()[replica_id].memory_mib = mib

    def set_device_memory(self, device_id: str, replica_id: str, mib: int) -> None:
        self._mine()[replica_id].device_memory_mib[device_id] = mib

    def is_running(self, replica_id: str) -> bool:
        return replica_id in self._mine()

    async def until_starts(self, count: int) -> None:
        """Wait until `start` was called `count` times in all."""
        async with self._calls:
            await self._calls.wait_for(lambda: len(self.starts) >= count)

    async def until_stops(self, count: int) -> None:
        """Wait until `stop` was called `count` times in all."""
        async with self._calls:
            await self._calls.wait_for(lambda: len(self.stops) >= count)

    async def _announce(self) -> None:
        async with self._calls:
            self._calls.notify_all()

    def _mine(self) -> dict[str, FakeProcess]:
        return {name: process for (store, name), process in self.host.processes.items() if store == self._store_id}

    def _found(self, order: ReplicaOrder) -> RunningReplica | None:
        process = self._mine().get(order.replica_id)
        if process is None:
            return None
        if process.replica.generation != order.generation:
            raise RuntimeFailure(
                f"cannot start replica {order.replica_id}: its generation {process.replica.generation} still runs; "
                "stop it first"
            )
        self._watched.add(order.replica_id)
        return process.replica

    async def _until_start_is_let_go(self, replica_id: str) -> None:
        if not self.hold_starts:
            return
        starting = self._starting.setdefault(replica_id, asyncio.get_running_loop().create_future())
        try:
            await starting
        finally:
            self._starting.pop(replica_id, None)

    def _run(self, order: ReplicaOrder) -> RunningReplica:
        replica = RunningReplica(
            order.replica_id, order.generation, order.config_hash, self._endpoint_of(order), f"fake {order.replica_id}"
        )
        self.host.processes[self._store_id, order.replica_id] = FakeProcess(replica, self)
        self.host.logs[self._store_id, order.replica_id] = []
        self._watched.add(order.replica_id)
        return replica

    def _report(self, process: FakeProcess, code: int, reason: str) -> None:
        replica = process.replica
        key = (self._store_id, replica.replica_id)
        if replica.replica_id not in self._watched or process.owner._store_id != self._store_id:
            return
        self._watched.discard(replica.replica_id)
        known = code if process.owner is self else None
        words = reason or "\n".join([f"exited with code {code}", *self.host.logs.get(key, [])[-20:]])
        self._on_exit(ReplicaExit(replica.replica_id, replica.generation, known, words))
