"""ProcessRuntime: replicas as process trees on this machine, which outlive the control plane.

Keeps only what is in flight: for each replica at most one start and one stop.
What runs is read from /proc each time and never remembered.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from adapters.endpoint import Endpoint
from controlplane.errors import RuntimeFailure
from controlplane.ports import Devices, ReplicaExit, ReplicaOrder, RunningReplica
from controlplane.runtime.in_flight import InFlight, cancel
from controlplane.runtime.patience import Patience
from controlplane.runtime.process_exit import open_pidfd
from controlplane.runtime.process_files import ReplicaFiles
from controlplane.runtime.process_found import Found, Sightings, look
from controlplane.runtime.process_launch import Interpreters, Launched, Place, launch
from controlplane.runtime.process_log import LogLimits, ReplicaLog
from controlplane.runtime.process_stop import end_tree
from controlplane.runtime.process_tree import Process, find_trees, memory_mib
from controlplane.runtime.process_watch import ExitReports
from controlplane.runtime.sockets import free_port

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """`state_dir` holds run/, logs/ and work/; `store_id` separates control planes on one machine.

    `base_env` is what engines inherit, below their launch's own variables.
    """

    state_dir: Path
    store_id: str
    base_env: Mapping[str, str]
    tcp_host: str = "127.0.0.1"
    log_limits: LogLimits = field(default_factory=LogLimits)


class ProcessRuntime:
    """Implements `controlplane.ports.Runtime`.

    `on_exit` is called in the event loop's thread, once for each main process
    that ends without being stopped, perhaps before the caller of `start`
    resumes. What the process left behind runs on until `stop`.
    """

    def __init__(
        self,
        settings: ProcessSettings,
        interpreters: Interpreters,
        devices: Devices,
        on_exit: Callable[[ReplicaExit], None],
    ) -> None:
        self._settings = settings
        self._interpreters = interpreters
        self._devices = devices
        self._exits = ExitReports(on_exit, self.log_tail)
        self._in_flight = InFlight(self._start, self._stop)
        self._ports: dict[str, int] = {}
        self._changes = 0
        self._log_upkeep: asyncio.Task[None] | None = None

    async def start(self, order: ReplicaOrder, progress: Callable[[str], None]) -> RunningReplica:
        return await self._in_flight.start(order, progress)

    async def stop(self, replica_id: str, grace_seconds: float) -> None:
        await self._in_flight.stop(replica_id, grace_seconds)

    async def running(self) -> Sequence[RunningReplica]:
        found = await self._look_undisturbed()
        for one in found:
            self._watch_found(one)
        return [one.replica for one in found]

    async def memory_mib(self) -> Mapping[str, int]:
        return await asyncio.to_thread(lambda: memory_mib(find_trees(self._settings.store_id)))

    async def device_memory_mib(self, device_id: str) -> Mapping[str, int] | None:
        readings = {reading.device_id: reading for reading in await self._devices.read()}
        if device_id not in readings or (process_mib := readings[device_id].process_mib) is None:
            return None
        used: dict[str, int] = {}
        for tree in await asyncio.to_thread(find_trees, self._settings.store_id):
            found = [process_mib[process.pid] for process in tree.processes if process.pid in process_mib]
            if found:
                used[tree.label.replica_id] = used.get(tree.label.replica_id, 0) + sum(found)
        return used

    async def log_tail(self, replica_id: str, lines: int) -> list[str]:
        return await asyncio.to_thread(self._log(replica_id).tail, lines)

    async def close(self) -> None:
        await self._in_flight.close()
        if self._log_upkeep is not None:
            await cancel(self._log_upkeep)
        self._exits.close()

    async def _start(self, order: ReplicaOrder, progress: Callable[[str], None]) -> RunningReplica:
        with _failing_as(f"cannot start replica {order.replica_id}"):
            return await self._already_running(order) or await self._launch(order, progress)

    async def _already_running(self, order: ReplicaOrder) -> RunningReplica | None:
        for one in await self._look(order.replica_id):
            if one.tree.label.generation != order.generation:
                raise RuntimeFailure(f"its generation {one.tree.label.generation} still runs; stop it first")
            if one.leader is not None:
                self._watch(one)
                return one.replica
            await self._end(order.replica_id, None, Patience(0))
        await self._exits.forget(order.replica_id)
        return None

    async def _launch(self, order: ReplicaOrder, progress: Callable[[str], None]) -> RunningReplica:
        python = await self._interpreters.python(order.launch.environment, progress)
        endpoint = self._endpoint(order)
        place = Place(self._files(order.replica_id), self._log(order.replica_id), python, endpoint)
        launching = asyncio.create_task(
            asyncio.to_thread(launch, order, place, self._settings.store_id, self._settings.base_env)
        )
        try:
            launched = await asyncio.shield(launching)
        except asyncio.CancelledError:
            await self._undo(order, launching)
            raise
        self._changes += 1
        self._watch_launched(order, launched)
        return RunningReplica(order.replica_id, order.generation, order.config_hash, endpoint, f"pid {launched.pid}")

    async def _undo(self, order: ReplicaOrder, launching: asyncio.Task[Launched]) -> None:
        """A thread cannot be cancelled: let it finish, then end what it started."""
        await asyncio.wait([launching])
        if launching.exception() is None:
            self._watch_launched(order, launching.result())
            await self._end(order.replica_id, None, Patience(0))

    async def _stop(self, replica_id: str, patience: Patience) -> None:
        self._exits.mute(replica_id)
        with _failing_as(f"cannot stop replica {replica_id}"):
            leaders = [one.leader for one in await self._look(replica_id) if one.leader is not None]
            await self._end(replica_id, next(iter(leaders), None), patience)

    async def _end(self, replica_id: str, leader: Process | None, patience: Patience) -> None:
        self._exits.mute(replica_id)
        await end_tree(Sightings(self._settings.store_id, replica_id).look, leader, patience)
        await self._exits.forget(replica_id)
        await asyncio.to_thread(self._files(replica_id).clear)
        self._ports.pop(replica_id, None)
        self._changes += 1

    async def _look_undisturbed(self) -> list[Found]:
        """All there is, seen at a moment when no start or stop ended meanwhile and made the sight stale."""
        while True:
            changes = self._changes
            found = await self._look()
            if changes == self._changes:
                return found

    async def _look(self, replica_id: str | None = None) -> list[Found]:
        return await asyncio.to_thread(look, self._settings.state_dir, self._settings.store_id, replica_id)

    def _watch_found(self, one: Found) -> None:
        """Watch it, unless a start or stop that is under way looks after it."""
        if one.tree.label.replica_id not in self._in_flight:
            self._watch(one)

    def _watch(self, one: Found) -> None:
        label = one.tree.label
        if self._exits.knows(label.key):
            return
        if label.endpoint.port is not None:
            self._ports[label.replica_id] = label.endpoint.port
        pidfd = open_pidfd(one.leader) if one.leader is not None else None
        if pidfd is None:
            self._exits.ended(label.key, None)
        else:
            self._exits.watch(label.key, pidfd)
            self._keep_logs_small()

    def _watch_launched(self, order: ReplicaOrder, launched: Launched) -> None:
        self._exits.watch((order.replica_id, order.generation), launched.pidfd)
        self._keep_logs_small()

    def _keep_logs_small(self) -> None:
        if self._log_upkeep is None:
            self._log_upkeep = asyncio.create_task(self._rotate_logs())

    async def _rotate_logs(self) -> None:
        """By the clock, for an engine's writes to its own file are no event of ours."""
        while True:
            await asyncio.sleep(self._settings.log_limits.check_seconds)
            for replica_id in self._exits.watched():
                try:
                    await asyncio.to_thread(self._log(replica_id).rotate_if_large)
                except OSError as exc:
                    _log.warning("cannot rotate a replica's log", replica_id=replica_id, error=str(exc))

    def _endpoint(self, order: ReplicaOrder) -> Endpoint:
        if order.launch.listen == "unix":
            return Endpoint.unix(str(self._files(order.replica_id).socket))
        host = self._settings.tcp_host
        port = self._ports[order.replica_id] = free_port(host, self._ports.values())
        return Endpoint.tcp(host, port)

    def _files(self, replica_id: str) -> ReplicaFiles:
        return ReplicaFiles(self._settings.state_dir, self._settings.store_id, replica_id)

    def _log(self, replica_id: str) -> ReplicaLog:
        return ReplicaLog(self._files(replica_id).log, self._settings.log_limits)


@contextlib.contextmanager
def _failing_as(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeFailure as exc:
        raise RuntimeFailure(f"{what}: {exc}") from exc
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename is not None else ""
        raise RuntimeFailure(f"{what}: {where}{exc.strerror or exc}") from exc
