"""The Runtime contract's world of real containers on a real Docker engine, reached through the gate."""

import asyncio
import os
import socket
import uuid
from pathlib import Path

import docker
from docker.models.containers import Container

from adapters.base import Launch
from controlplane.ports import ReplicaOrder
from controlplane.runtime.docker import DockerRuntime
from controlplane.runtime.docker_container import DockerSettings, EngineImage, Share
from controlplane.runtime.docker_engine import DockerEngine
from controlplane.runtime.docker_label import container_name
from tests.contract.desk import PATIENCE_SECONDS, Desk
from tests.contract.runtime_worlds import BROKEN, SLOW, TINY_ENGINE, ControlPlane, Crash, Exits
from tests.docker import provision
from tests.docker.gates import Gate
from tests.fakes.devices import FakeDevices

BROKEN_IMAGE = "127.0.0.1:1/broken:1"


# What the contract's engines need beyond what the product's own do.
ALLOWED = ("--image", provision.PYTHON_IMAGE, "--network", "bridge", "--folder", str(TINY_ENGINE.parent))


class DockerWorld:
    """Containers with a private network per test; SLOW is pulled from a registry that never answers."""

    broken_words = f"cannot pull {BROKEN_IMAGE}"

    def __init__(self, folder: Path, desk: Desk, gate: Gate) -> None:
        self._folder = folder
        self._gate = gate
        self._desk = desk
        self._prefix = uuid.uuid4().hex[:12]
        self._planes: list[ControlPlane] = []
        self._registry = socket.create_server(("127.0.0.1", 0))
        self._registry.settimeout(0)
        self._callers: list[socket.socket] = []
        self.client = docker.DockerClient(base_url=f"unix://{provision.SOCKET}", version="auto")

    def open(self) -> None:
        (self._folder / "run").mkdir()

    def settings(self, store: str = "one") -> DockerSettings:
        port = self._registry.getsockname()[1]
        engine = Share(str(TINY_ENGINE.parent), str(TINY_ENGINE.parent))
        desk = Share(str(self._desk.path.parent), str(self._desk.path.parent), read_only=False)
        return DockerSettings(
            store_id=f"{self._prefix}-{store}",
            images={
                None: EngineImage(provision.PYTHON_IMAGE),
                SLOW: EngineImage(f"127.0.0.1:{port}/slow:1"),
                BROKEN: EngineImage(BROKEN_IMAGE),
            },
            engines_dir="/nowhere/engines",
            sockets=Share(str(self._folder / "run"), str(self._folder / "run"), read_only=False),
            network="bridge",
            shares=(engine, desk),
            user=str(os.getuid()),
        )

    def control_plane(self, store: str = "one") -> ControlPlane:
        exits = Exits()
        logs = self._folder / store / "logs"
        runtime = DockerRuntime(self.settings(store), DockerEngine(self._gate.address), FakeDevices.host(), logs, exits)
        self._planes.append(ControlPlane(runtime, exits))
        return self._planes[-1]

    def order(self, replica_id: str, generation: int = 1, environment: str | None = None) -> ReplicaOrder:
        argv = ("{python}", str(TINY_ENGINE), str(self._desk.path), "engine")
        env = {"IM_REPLICA": replica_id, "IM_GENERATION": str(generation)}
        launch = Launch(environment, argv, env, "unix", ready_timeout_seconds=30, stop_grace_seconds=30)
        return ReplicaOrder(replica_id, generation, f"hash-{generation}", launch)

    async def until_start_is_held(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            caller, _ = await asyncio.get_running_loop().sock_accept(self._registry)
        self._callers.append(caller)

    async def crash(self, replica_id: str) -> Crash:
        engine = await self._desk.visitor(replica_id)
        await engine.do("say something is wrong")
        engine.order("exit 7")
        await engine.gone()
        return Crash(7, "something is wrong")

    async def die(self, plane: ControlPlane) -> None:
        await plane.runtime.close()

    async def alive(self, replica_id: str) -> int:
        return len(await asyncio.to_thread(self._alive, replica_id))

    async def close(self) -> None:
        """Nothing outlives the test, whatever it did."""
        for plane in self._planes:
            await plane.runtime.close()
        await asyncio.to_thread(self._remove_all)
        for held in (self._registry, *self._callers):
            held.close()

    def containers(self) -> list[Container]:
        """All of this world, alive or dead, found by their names."""
        return self.client.containers.list(all=True, filters={"name": f"im-{self._prefix}"})

    def _alive(self, replica_id: str) -> list[Container]:
        names = {container_name(f"{self._prefix}-{store}", replica_id) for store in ("one", "two")}
        return [one for one in self.containers() if one.name in names and one.status == "running"]

    def _remove_all(self) -> None:
        for container in self.containers():
            container.remove(force=True, v=True)
        self.client.close()
