"""Worlds in which the Runtime contract is tried: real processes, and the fake.

A world makes control planes (runtimes with their exits), orders, crashes, and
says by means of its own what is alive.
"""

import asyncio
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from adapters.base import Launch
from controlplane.errors import RuntimeFailure
from controlplane.ports import ReplicaExit, ReplicaOrder, Runtime
from controlplane.runtime.process import ProcessRuntime, ProcessSettings
from controlplane.runtime.process_log import LogLimits
from tests.contract.desk import PATIENCE_SECONDS, Desk
from tests.fakes.devices import FakeDevices
from tests.fakes.runtime import FakeHost, FakeRuntime

TINY_ENGINE = Path(__file__).with_name("tiny_engine.py")
SLOW, BROKEN = "slow", "broken"


@dataclass
class Exits:
    """What a runtime reported, in order."""

    queue: asyncio.Queue[ReplicaExit] = field(default_factory=asyncio.Queue)

    def __call__(self, report: ReplicaExit) -> None:
        self.queue.put_nowait(report)

    async def next(self) -> ReplicaExit:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.queue.get()

    def none(self) -> bool:
        return self.queue.empty()


@dataclass
class ControlPlane:
    """One life of a control plane, as far as the runtime is concerned."""

    runtime: Runtime
    exits: Exits


@dataclass(frozen=True)
class Crash:
    """What the world did to a main process: its exit code, and the last words it logged, if it could speak."""

    code: int
    words: str


class World(Protocol):
    """What the contract's tests need. Orders with `environment` SLOW wait, with BROKEN fail in `broken_words`."""

    @property
    def broken_words(self) -> str: ...

    def control_plane(self, store: str = "one") -> ControlPlane: ...

    def order(self, replica_id: str, generation: int = 1, environment: str | None = None) -> ReplicaOrder: ...

    async def until_start_is_held(self) -> None: ...

    async def crash(self, replica_id: str) -> Crash: ...

    async def die(self, plane: ControlPlane) -> None: ...

    async def alive(self, replica_id: str) -> int: ...


class Interpreters:
    """Our own interpreter, at once, never (SLOW) or not at all (BROKEN)."""

    def __init__(self) -> None:
        self.held = asyncio.Event()

    async def python(self, environment: str | None, progress: Callable[[str], None]) -> Path:
        if environment == SLOW:
            progress("installing slow")
            self.held.set()
            await asyncio.Event().wait()
        if environment == BROKEN:
            raise RuntimeFailure("cannot install broken: no such package")
        return Path(sys.executable)


def environment_of(pid: int) -> dict[str, str]:
    try:
        return psutil.Process(pid).environ()
    except psutil.Error:
        return {}


class ProcessWorld:
    """Real processes on this machine; stores of its own in every test."""

    broken_words = "cannot install broken"

    def __init__(self, state_dir: Path, desk: Desk, limits: LogLimits | None = None) -> None:
        self.state_dir = state_dir
        self.desk = desk
        self.interpreters = Interpreters()
        self.devices = FakeDevices.host()
        self._limits = limits or LogLimits()
        self._prefix = uuid.uuid4().hex
        self._planes: list[ControlPlane] = []
        self._stores: set[str] = set()

    def store_id(self, store: str = "one") -> str:
        return f"{self._prefix}-{store}"

    def settings(self, store: str = "one") -> ProcessSettings:
        return ProcessSettings(self.state_dir / store, self.store_id(store), dict(os.environ), log_limits=self._limits)

    def runtime(self, store: str = "one") -> tuple[ProcessRuntime, Exits]:
        exits = Exits()
        self._stores.add(store)
        runtime = ProcessRuntime(self.settings(store), self.interpreters, self.devices, exits)
        self._planes.append(ControlPlane(runtime, exits))
        return runtime, exits

    def control_plane(self, store: str = "one") -> ControlPlane:
        self.runtime(store)
        return self._planes[-1]

    def order(self, replica_id: str, generation: int = 1, environment: str | None = None) -> ReplicaOrder:
        argv = ("{python}", str(TINY_ENGINE), str(self.desk.path), "engine")
        launch = Launch(environment, argv, {}, "unix", ready_timeout_seconds=30, stop_grace_seconds=30)
        return ReplicaOrder(replica_id, generation, f"hash-{generation}", launch)

    async def until_start_is_held(self) -> None:
        await self.interpreters.held.wait()

    async def crash(self, replica_id: str) -> Crash:
        engine = await self.desk.visitor(replica_id)
        await engine.do("say something is wrong")
        engine.order("exit 7")
        await engine.gone()
        return Crash(7, "something is wrong")

    async def die(self, plane: ControlPlane) -> None:
        """As far as one process can play it; a control plane that is really killed has a test of its own."""
        await plane.runtime.close()

    def processes(self, replica_id: str, store: str = "one") -> list[int]:
        """Pids that carry the label, found by other means than the runtime's."""
        wanted = {"IM_STORE": self.store_id(store), "IM_REPLICA": replica_id}
        return [pid for pid in psutil.pids() if wanted.items() <= environment_of(pid).items()]

    async def alive(self, replica_id: str) -> int:
        return len(self.processes(replica_id))

    async def close(self) -> None:
        """Nothing outlives the test, whatever it did."""
        for plane in self._planes:
            await plane.runtime.close()
        for pid in psutil.pids():
            if environment_of(pid).get("IM_STORE", "").startswith(self._prefix):
                os.kill(pid, signal.SIGKILL)
                psutil.Process(pid).wait(PATIENCE_SECONDS)
        for child in psutil.Process().children():
            if child.status() == psutil.STATUS_ZOMBIE:
                child.wait(PATIENCE_SECONDS)
        for store in self._stores:
            digest = hashlib.sha256(self.store_id(store).encode()).hexdigest()[:16]
            for left in Path(tempfile.gettempdir()).glob(f"im-{digest}-*"):
                shutil.rmtree(left)


class SimulatedWorld(ProcessWorld):
    """The simulated engine instead of the tiny one."""

    def order(self, replica_id: str, generation: int = 1, environment: str | None = None) -> ReplicaOrder:
        argv = ("{python}", "-m", "engines.simulated", "--uds", "{uds}", "--model", "tiny")
        launch = Launch(environment, argv, {}, "unix", ready_timeout_seconds=30, stop_grace_seconds=30)
        return ReplicaOrder(replica_id, generation, f"hash-{generation}", launch)

    async def crash(self, replica_id: str) -> Crash:
        for pid in self.processes(replica_id):
            os.kill(pid, signal.SIGKILL)
        return Crash(-signal.SIGKILL, "")


class FakeWorld:
    """The fake runtime on its fake host."""

    broken_words = "cannot install broken"

    def __init__(self) -> None:
        self.host = FakeHost()
        self._planes: list[FakeRuntime] = []

    def control_plane(self, store: str = "one") -> ControlPlane:
        exits = Exits()
        self._planes.append(FakeRuntime(exits, host=self.host, store_id=store))
        return ControlPlane(self._planes[-1], exits)

    def order(self, replica_id: str, generation: int = 1, environment: str | None = None) -> ReplicaOrder:
        launch = Launch(environment, ("fake",), {}, "unix", ready_timeout_seconds=30, stop_grace_seconds=30)
        for plane in self._planes:
            plane.hold_starts = environment == SLOW
            if environment == BROKEN:
                plane.fail_next_start(replica_id, "cannot install broken: no such package")
        return ReplicaOrder(replica_id, generation, f"hash-{generation}", launch)

    async def until_start_is_held(self) -> None:
        await self._planes[-1].until_starts(1)

    async def crash(self, replica_id: str) -> Crash:
        runtime = self._planes[0]
        runtime.say(replica_id, "something is wrong")
        runtime.crash(replica_id, code=7)
        return Crash(7, "something is wrong")

    async def die(self, plane: ControlPlane) -> None:
        assert isinstance(plane.runtime, FakeRuntime)
        plane.runtime.abandon()

    async def alive(self, replica_id: str) -> int:
        return ("one", replica_id) in self.host.processes
