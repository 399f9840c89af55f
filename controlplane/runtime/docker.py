"""DockerRuntime: replicas as containers, which outlive the control plane.

Keeps only what is in flight and whose end is to be reported. What runs is asked of the engine each time.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import docker
import structlog

from controlplane.errors import RuntimeFailure
from controlplane.ports import Devices, ReplicaExit, ReplicaOrder, RunningReplica
from controlplane.runtime.docker_container import DockerSettings, creation, socket_path
from controlplane.runtime.docker_engine import ContainerBusy, ContainerMissing, DockerEngine, tell
from controlplane.runtime.docker_events import DockerEvents
from controlplane.runtime.docker_found import (
    FoundContainer,
    exit_of,
    last_words,
    log_lines,
    look,
    pids,
    remove,
    used_mib,
)
from controlplane.runtime.docker_images import ensure_image
from controlplane.runtime.docker_label import container_name
from controlplane.runtime.docker_networks import PrivateNetwork
from controlplane.runtime.in_flight import InFlight
from controlplane.runtime.patience import Patience

_log = structlog.get_logger(__name__)
_KEPT_LINES = 2_000
_AGAIN_AFTER_SECONDS = 1.0


class _Bell:
    """Rings for everybody who waits; who asks for the next ring before looking misses none."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        return self._event

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()


@dataclass(frozen=True, slots=True)
class _Key:
    replica_id: str
    generation: int


class DockerRuntime:
    """Implements `controlplane.ports.Runtime`.

    `on_exit` is called in the event loop's thread, once for each container that ends without being stopped. Logs of
    removed containers are kept in `log_dir`.
    """

    def __init__(
        self,
        settings: DockerSettings,
        engine: DockerEngine,
        devices: Devices,
        log_dir: Path,
        on_exit: Callable[[ReplicaExit], None],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._devices = devices
        self._network = PrivateNetwork(settings, engine)
        self._log_dir = log_dir
        self._on_exit = on_exit
        self._in_flight = InFlight(self._start, self._stop)
        self._watched: dict[_Key, str] = {}
        self._events: DockerEvents | None = None
        self._news = _Bell()
        self._reporting: asyncio.Task[None] | None = None

    async def start(self, order: ReplicaOrder, progress: Callable[[str], None]) -> RunningReplica:
        return await self._in_flight.start(order, progress)

    async def stop(self, replica_id: str, grace_seconds: float) -> None:
        await self._in_flight.stop(replica_id, grace_seconds)

    async def running(self) -> Sequence[RunningReplica]:
        found = await self._look()
        for one in found:
            if one.alive and one.label.replica_id not in self._in_flight:
                self._watch(one)
        await self._sweep(found)
        return [self._replica(one) for one in found if one.alive]

    async def memory_mib(self) -> Mapping[str, int]:
        alive = [one for one in await self._look() if one.alive]
        used = await asyncio.gather(*(self._engine.call(_used(one.container_id)) for one in alive))
        return {one.label.replica_id: mib for one, mib in zip(alive, used, strict=True) if mib is not None}

    async def device_memory_mib(self, device_id: str) -> Mapping[str, int] | None:
        readings = {reading.device_id: reading for reading in await self._devices.read()}
        if device_id not in readings or (process_mib := readings[device_id].process_mib) is None:
            return None
        used: dict[str, int] = {}
        for one in await self._look():
            if one.alive:
                mine = await self._engine.call(_pids(one.container_id))
                found = [process_mib[pid] for pid in mine if pid in process_mib]
                if found:
                    used[one.label.replica_id] = sum(found)
        return used

    async def log_tail(self, replica_id: str, lines: int) -> list[str]:
        for one in await self._look(replica_id):
            told = await self._engine.call(partial(log_lines, container_id=one.container_id, lines=lines))
            if told is not None:
                return told
        return await asyncio.to_thread(self._kept_lines, replica_id, lines)

    async def close(self) -> None:
        await self._in_flight.close()
        if self._events is not None:
            await asyncio.to_thread(self._events.close)
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.wait([self._reporting])
        await self._engine.close()

    async def _start(self, order: ReplicaOrder, progress: Callable[[str], None]) -> RunningReplica:
        with _failing_as(f"cannot start replica {order.replica_id}"):
            return await self._already_running(order) or await self._create(order, progress)

    async def _already_running(self, order: ReplicaOrder) -> RunningReplica | None:
        for one in await self._look(order.replica_id):
            same = one.label.generation == order.generation
            # Somebody froze it: waiting for it to get ready would be in vain.
            if not one.alive or (one.frozen and same):
                self._watched.pop(_key(one), None)
                await self._remove(one)
                continue
            if not same:
                raise RuntimeFailure(f"its generation {one.label.generation} still runs; stop it first")
            self._watch(one)
            return self._replica(one)
        return None

    async def _create(self, order: ReplicaOrder, progress: Callable[[str], None]) -> RunningReplica:
        asked = creation(order, self._settings)
        await ensure_image(self._engine, str(asked["image"]), progress)
        if order.launch.listen == "tcp":
            await self._network.ensure()
        self._free_socket(order.replica_id)
        creating = asyncio.create_task(self._engine.call(lambda client: _create_and_start(client, asked)))
        try:
            await asyncio.shield(creating)
        except asyncio.CancelledError:
            await asyncio.wait([creating])  # a thread cannot be cancelled: let it finish, then undo it
            await self._remove_all(order.replica_id)
            raise
        for one in await self._look(order.replica_id):
            self._watch(one)
            return self._replica(one)
        raise ContainerMissing("its container vanished while it started")

    async def _stop(self, replica_id: str, patience: Patience) -> None:
        self._watched = {key: one for key, one in self._watched.items() if key.replica_id != replica_id}
        with _failing_as(f"cannot stop replica {replica_id}"):
            for one in await self._look(replica_id):
                if one.alive:
                    await patience.cut_off(self._ask(one))
            await self._remove_all(replica_id)

    async def _ask(self, one: FoundContainer) -> None:
        """SIGTERM, and wait for its end, which the engine's events tell."""
        self._listen()
        with contextlib.suppress(ContainerMissing, ContainerBusy):  # it has ended by itself
            await self._engine.call(lambda client: client.containers.get(one.container_id).kill(signal="SIGTERM"))
        while True:
            news = self._news.next()
            if not any(left.alive for left in await self._look(one.label.replica_id)):
                return
            await news.wait()

    async def _remove_all(self, replica_id: str) -> None:
        for one in await self._look(replica_id):
            await self._remove(one)
        self._free_socket(replica_id)

    async def _remove(self, one: FoundContainer) -> None:
        """Kill what runs of it, and keep its log."""
        lines = await self._engine.call(lambda client: log_lines(client, one.container_id, _KEPT_LINES))
        if lines is not None:
            await asyncio.to_thread(self._keep_lines, one.label.replica_id, lines)
        await self._engine.call(lambda client: remove(client, one.container_id))

    async def _sweep(self, found: Sequence[FoundContainer]) -> None:
        """Remove what has ended, or never began, and nobody waits for: a start or a life that was broken off."""
        for one in found:
            if not one.alive and not self._in_use(one.label.replica_id):
                self._free_socket(one.label.replica_id)
                await self._remove(one)

    def _in_use(self, replica_id: str) -> bool:
        return replica_id in self._in_flight or any(key.replica_id == replica_id for key in self._watched)

    async def _look(self, replica_id: str | None = None) -> list[FoundContainer]:
        return await self._engine.call(lambda client: look(client, self._settings, replica_id))

    def _replica(self, one: FoundContainer) -> RunningReplica:
        return one.replica(on_network=self._settings.on_network)

    def _watch(self, one: FoundContainer) -> None:
        self._watched[_key(one)] = one.container_id
        self._listen()
        self._news.ring()  # it may have ended before the events were listened to

    def _listen(self) -> None:
        if self._events is not None:
            return
        look_again = partial(tell, asyncio.get_running_loop(), self._news.ring)
        self._events = DockerEvents(self._engine, self._settings.store_id, look_again)
        self._reporting = asyncio.create_task(self._report_exits())
        self._events.start()

    async def _report_exits(self) -> None:
        while True:
            news = self._news.next()
            try:
                await self._report_ended()
            except RuntimeFailure as exc:  # no event tells that the engine would answer now
                _log.warning("docker.unreadable", reason=str(exc))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), _AGAIN_AFTER_SECONDS)
                continue
            await news.wait()

    async def _report_ended(self) -> None:
        watched = dict(self._watched)
        found = {one.container_id: one for one in await self._look()}
        for key, container_id in watched.items():
            one = found.get(container_id)
            if one is None or not one.alive:
                await self._report(key, container_id, one)
        await self._sweep(list(found.values()))

    async def _report(self, key: _Key, container_id: str, one: FoundContainer | None) -> None:
        """Once, and not at all when it was stopped or started anew meanwhile. The sweep removes what is left of it."""
        report = await self._exit(key, one)
        if self._watched.get(key) != container_id:
            return
        del self._watched[key]
        if not self._in_use(key.replica_id):
            self._free_socket(key.replica_id)
        self._on_exit(report)

    async def _exit(self, key: _Key, one: FoundContainer | None) -> ReplicaExit:
        if one is None:
            return ReplicaExit(key.replica_id, key.generation, None, "its container was removed by somebody else")
        return exit_of(one, await self._engine.call(lambda client: last_words(client, one.container_id)))

    def _keep_lines(self, replica_id: str, lines: list[str]) -> None:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._kept(replica_id).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def _kept_lines(self, replica_id: str, lines: int) -> list[str]:
        try:
            kept = self._kept(replica_id).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return kept[-lines:] if lines > 0 else []

    def _free_socket(self, replica_id: str) -> None:
        Path(socket_path(self._settings, replica_id)).unlink(missing_ok=True)

    def _kept(self, replica_id: str) -> Path:
        return self._log_dir / f"{container_name(self._settings.store_id, replica_id)}.log"


def _create_and_start(client: docker.DockerClient, asked: dict[str, Any]) -> None:
    container = client.containers.create(**asked)
    try:
        container.start()
    except BaseException:
        container.remove(v=True, force=True)  # a failed start leaves a container that blocks the name
        raise


def _used(container_id: str) -> Callable[[docker.DockerClient], int | None]:
    return lambda client: used_mib(client, container_id)


def _pids(container_id: str) -> Callable[[docker.DockerClient], list[int]]:
    return lambda client: pids(client, container_id)


def _key(one: FoundContainer) -> _Key:
    return _Key(one.label.replica_id, one.label.generation)


@contextlib.contextmanager
def _failing_as(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeFailure as exc:
        raise RuntimeFailure(f"{what}: {exc}") from exc
    except OSError as exc:
        raise RuntimeFailure(f"{what}: {exc}") from exc
