"""Orders that a service on this host would not give, through the runtime itself and the gate, on the real engine."""

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import httpx
import psutil
import pytest
from docker.models.containers import Container

from adapters.base import Launch
from adapters.endpoint import Endpoint
from controlplane.errors import RuntimeFailure
from controlplane.ports import DeviceReading, ReplicaExit, ReplicaOrder
from controlplane.runtime.docker import DockerRuntime
from controlplane.runtime.docker_container import ContainerLimits, DockerSettings, EngineImage, Share
from controlplane.runtime.docker_engine import DockerEngine
from tests.docker import provision
from tests.docker.gates import NETWORK, Gate
from tests.fakes.devices import FakeDevices

PATIENCE_SECONDS = 60.0
PYTHON = "/opt/inference-manager/bin/python"
LIMITS = ContainerLimits(log_mib=1, log_files=2, memory_mib=256)
CHATTY = """
import sys, time
for number in range(300_000):
    print(f"line {number} of many words that nobody will ever read again")
print("the last line", flush=True)
time.sleep(600)
"""
WITH_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("both are there", flush=True)
child.wait()
"""


def quiet(_: str) -> None:
    """Nobody reads the progress."""


@dataclass
class Runtime:
    """A runtime on a store of its own, and what it reported."""

    runtime: DockerRuntime
    store_id: str
    client: docker.DockerClient
    devices: FakeDevices
    exits: asyncio.Queue[ReplicaExit] = field(default_factory=asyncio.Queue)

    def containers(self) -> list[Container]:
        return self.client.containers.list(all=True, filters={"label": f"im.store={self.store_id}"})


def order(*argv: str, gpus: tuple[int, ...] = (), listen: str = "unix") -> ReplicaOrder:
    launch = Launch(None, ("{python}", *argv), {}, "tcp" if listen == "tcp" else "unix", 30, 1)
    return ReplicaOrder("llm-0", 1, "hash-1", launch, gpus)


Make = Callable[..., Awaitable[Runtime]]


@pytest.fixture
async def make(tmp_path: Path, gate: Gate, client: docker.DockerClient) -> AsyncIterator[Make]:
    made: list[Runtime] = []

    async def runtime(network: str = "none", *, on_network: bool = False, **more: Any) -> Runtime:
        sockets = tmp_path / "sockets"
        sockets.mkdir()
        image = EngineImage(provision.CONTROL_PLANE, PYTHON)
        store_id = uuid.uuid4().hex[:12]
        share = Share(str(sockets), str(sockets), read_only=False)
        more = {"user": f"{os.getuid()}:{os.getgid()}", "limits": LIMITS, **more}
        settings = DockerSettings(store_id, {None: image}, "/nowhere", share, network, on_network, **more)
        exits: asyncio.Queue[ReplicaExit] = asyncio.Queue()
        devices = FakeDevices(DeviceReading("gpu0", "cuda", 0, "a card", 16_000, 0))
        docker_runtime = DockerRuntime(
            settings, DockerEngine(gate.address), devices, tmp_path / "logs", exits.put_nowait
        )
        new = Runtime(docker_runtime, store_id, client, devices, exits)
        made.append(new)
        return new

    yield runtime
    for each in made:
        await each.runtime.stop("llm-0", 0)
        await each.runtime.close()
        left = [(one.name, one.status) for one in each.containers()]
        for one in each.containers():
            one.remove(force=True)
        assert not left


async def test_a_missing_gpu_is_told_with_its_remedy(make: Make) -> None:
    """Without the toolkit a container that asks for a GPU is made and cannot start: it is told, and not left behind."""
    plane = await make()
    with pytest.raises(RuntimeFailure, match="cannot start replica llm-0: could not select device driver") as told:
        await plane.runtime.start(order("-c", "pass", gpus=(0,)), quiet)
    assert "install nvidia-container-toolkit" in str(told.value)
    assert plane.containers() == []


async def test_a_network_that_the_gate_does_not_know_is_told(make: Make) -> None:
    """An engine on TCP asks for the private network; what the gate says of another one reaches the owner."""
    plane = await make(network="somebody-elses")
    with pytest.raises(RuntimeFailure, match=r"cannot start replica llm-0: refused by the gate.*somebody-elses"):
        await plane.runtime.start(order("-c", "pass", listen="tcp"), quiet)
    assert plane.containers() == []


async def test_a_program_that_is_not_in_the_image_is_told(make: Make) -> None:
    """The exec fails after the container was made: its words come through, and it is removed."""
    plane = await make()
    absent = ReplicaOrder("llm-0", 1, "hash-1", Launch(None, ("/not/there",), {}, "unix", 30, 1))
    try:
        await plane.runtime.start(absent, quiet)
    except RuntimeFailure as exc:
        told = str(exc)
    else:  # behind the init process the container starts, and ends at once
        async with asyncio.timeout(PATIENCE_SECONDS):
            told = (await plane.exits.get()).reason
    assert "/not/there" in told
    assert list(await plane.runtime.running()) == []


async def test_a_log_never_outgrows_its_limit(make: Make, client: docker.DockerClient) -> None:
    """Seventeen megabytes of words leave two files of a megabyte, and the last line can still be read."""
    plane = await make()
    await plane.runtime.start(order("-c", CHATTY), quiet)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await plane.runtime.log_tail("llm-0", 1)) != ["the last line"]:
            await asyncio.sleep(0.1)

    (container,) = plane.containers()
    written = Path(container.attrs["LogPath"] or client.api.inspect_container(container.id)["LogPath"])
    files = list(written.parent.glob(f"{written.name}*"))
    assert 1 < len(files) <= 2
    assert sum(path.stat().st_size for path in files) <= 2.1 * (1 << 20)


async def test_the_end_of_a_container_is_reported_and_swept(make: Make) -> None:
    """Once reported nothing of it is left on the engine, and its last words are kept."""
    plane = await make()
    await plane.runtime.start(order("-c", "print('so long'); raise SystemExit(9)"), quiet)
    async with asyncio.timeout(PATIENCE_SECONDS):
        report = await plane.exits.get()
        while plane.containers():
            await asyncio.sleep(0.05)

    assert (report.code, "so long" in report.reason) == (9, True)
    assert await plane.runtime.log_tail("llm-0", 5) == ["so long"]
    assert plane.exits.empty()


async def test_a_gpus_memory_is_attributed_by_the_containers_processes(make: Make) -> None:
    """NVML knows this machine's process ids: children inside the container count, strangers beside it do not."""
    plane = await make()
    await plane.runtime.start(order("-c", WITH_CHILD), quiet)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await plane.runtime.log_tail("llm-0", 1) != ["both are there"]:
            await asyncio.sleep(0.05)
    (container,) = plane.containers()
    init = psutil.Process(container.attrs["State"]["Pid"])
    engine, child = init.children(recursive=True)

    plane.devices.set("gpu0", 9_000, {engine.pid: 3_000, child.pid: 2_000, os.getpid(): 4_000})
    assert await plane.runtime.device_memory_mib("gpu0") == {"llm-0": 5_000}

    plane.devices.set("gpu0", 9_000, None)
    assert await plane.runtime.device_memory_mib("gpu0") is None


@pytest.fixture
def network(client: docker.DockerClient) -> Iterator[None]:
    made = client.networks.create(NETWORK, internal=False)
    yield
    made.remove()


@pytest.mark.parametrize("on_network", [False, True])
async def test_an_engine_on_a_port_is_reached(network: None, make: Make, on_network: bool) -> None:
    """Through a port of the loopback address alone, or at its own address for who is on the network himself."""
    plane = await make(NETWORK, on_network=on_network)
    argv = ("-m", "engines.simulated", "--host", "{host}", "--port", "{port}", "--model", "a")

    running = await plane.runtime.start(order(*argv, listen="tcp"), quiet)

    (container,) = plane.containers()
    bound = container.attrs["HostConfig"]["PortBindings"]
    assert (running.endpoint.host == "127.0.0.1") is not on_network
    assert bool(bound) is not on_network
    assert await _healthy(running.endpoint)
    assert list(await plane.runtime.running()) == [running]
    await plane.runtime.stop("llm-0", 5)
    assert plane.containers() == []


@pytest.mark.parametrize("on_network", [False, True])
async def test_the_private_network_is_made_when_it_is_missing(
    make: Make, client: docker.DockerClient, on_network: bool
) -> None:
    """Once, with our labels; without a way out where we are on it ourselves. A second engine joins the same one."""
    argv = ("-m", "engines.simulated", "--host", "{host}", "--port", "{port}", "--model", "a")
    plane = await make(NETWORK, on_network=on_network)
    assert client.networks.list(names=[NETWORK]) == []
    try:
        running = await plane.runtime.start(order(*argv, listen="tcp"), quiet)
        assert await _healthy(running.endpoint)
        await plane.runtime.stop("llm-0", 5)
        await plane.runtime.start(order(*argv, listen="tcp"), quiet)

        (made,) = client.networks.list(names=[NETWORK])
        assert (made.attrs["Driver"], made.attrs["Internal"]) == ("bridge", on_network)
        assert made.attrs["Labels"] == {"im.managed": "1", "im.store": plane.store_id}
    finally:
        await plane.runtime.stop("llm-0", 5)
        for one in client.networks.list(names=[NETWORK]):
            one.remove()


async def test_a_service_that_is_another_user_reaches_the_engines_socket(
    make: Make, client: docker.DockerClient, tmp_path: Path
) -> None:
    """Through the group of the folder, which the engine is lent; who is in neither finds no way in."""
    plane = await make(user="2000:2000", socket_group=3000)
    sockets = tmp_path / "sockets"
    os.chown(sockets, 3000, 3000)
    sockets.chmod(0o2770)
    argv = ("-m", "engines.simulated", "--uds", "{uds}", "--model", "a")
    running = await plane.runtime.start(order(*argv), quiet)
    path = Path(str(running.endpoint.uds))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not path.exists():
            await asyncio.sleep(0.05)

    def reached(user: str) -> bool:
        """Connecting as this user, from a container of its own that sees the folder."""
        code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        bind = {str(sockets): {"bind": str(sockets), "mode": "ro"}}
        asked = {"user": user, "network_mode": "none", "cap_drop": ["ALL"], "volumes": bind}
        one = client.containers.create(provision.CONTROL_PLANE, ["-c", code, str(path)], entrypoint=[PYTHON], **asked)
        try:
            one.start()
            return bool(one.wait()["StatusCode"] == 0)
        finally:
            one.remove(force=True)

    assert (path.stat().st_uid, path.stat().st_gid) == (2000, 3000)
    assert await asyncio.to_thread(reached, "3000:3000")
    assert not await asyncio.to_thread(reached, "4000:4000")


async def _healthy(endpoint: Endpoint) -> bool:
    async with asyncio.timeout(PATIENCE_SECONDS), httpx.AsyncClient() as http:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                return (await http.get(f"http://{endpoint.host}:{endpoint.port}/health")).status_code == 200
            await asyncio.sleep(0.1)


async def test_an_engine_on_a_port_that_ends_at_once_is_reported(network: None, make: Make) -> None:
    """It has lost its address before anybody could look: its end is an exit like any other, with its words."""
    plane = await make(NETWORK, on_network=True)
    await plane.runtime.start(order("-c", "raise SystemExit('no such model')", listen="tcp"), quiet)
    async with asyncio.timeout(PATIENCE_SECONDS):
        report = await plane.exits.get()
    assert (report.code, "no such model" in report.reason) == (1, True)
