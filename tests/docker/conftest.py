"""A real Docker engine with the product's image, the gate before it, and services whose engines are containers.

Several workers may run side by side: they share the engine and its images, and nothing else.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.contract.desk import Desk
from tests.docker import provision
from tests.docker.container_service import ContainerService, Serve
from tests.docker.docker_world import ALLOWED, DockerWorld
from tests.docker.gates import Gate


@contextmanager
def _alone() -> Iterator[None]:
    """One provides, everybody else on this machine waits; the kernel lets go when one is killed."""
    with (Path(tempfile.gettempdir()) / f"inference-manager-provision-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def docker_socket() -> Path:
    """The engine's own socket, with the image of the control plane, in which simulated engines run."""
    with _alone():
        provision.ensure_engine()
        provision.ensure_base()
        provision.build(next(image for image in provision.IMAGES if image.name == provision.CONTROL_PLANE))
    return provision.SOCKET


@pytest.fixture(scope="session")
def real_engines(docker_socket: Path) -> None:
    """The images of the real engines; made once on a machine, which takes minutes."""
    with _alone():
        for image in provision.IMAGES:
            if image.name != provision.CONTROL_PLANE:
                provision.build(image)


@pytest.fixture(scope="session")
def client(docker_socket: Path) -> Iterator[docker.DockerClient]:
    """Past the gate, as the machine's owner."""
    made = docker.DockerClient(base_url=f"unix://{docker_socket}", version="auto")
    yield made
    made.close()


@pytest.fixture(scope="session")
def root() -> Iterator[Path]:
    """A folder with a short path, for engines' sockets lie below it, whoever runs the tests and in however many."""
    folder = Path(tempfile.mkdtemp(prefix="im-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def tmp_path(root: Path) -> Path:
    """As pytest's own, below `root`."""
    return Path(tempfile.mkdtemp(dir=root))


@pytest.fixture(scope="session")
def gate(docker_socket: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    made = Gate(docker_socket, root / "gate.sock", root, "--folder", str(tmp_path_factory.getbasetemp()))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def contract_gate(docker_socket: Path, root: Path) -> Iterator[Gate]:
    """A wider gate, for the engines of the runtime's contract."""
    made = Gate(docker_socket, root / "contract.sock", root, *ALLOWED)
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def world(tmp_path: Path, contract_gate: Gate) -> AsyncIterator[DockerWorld]:
    """What the tests of the runtime's contract run in."""
    async with Desk(tmp_path / "desk") as desk:
        containers = DockerWorld(tmp_path, desk, contract_gate)
        containers.open()
        yield containers
        await containers.close()


@pytest.fixture
async def serve(tmp_path: Path, gate: Gate, client: docker.DockerClient) -> AsyncIterator[Serve]:
    """`await serve(model(...), docker={...})` gives a service that listens, on a state of its own."""
    services: list[ContainerService] = []

    async def start(*models: dict[str, Any], **keys: Any) -> ContainerService:
        folder = tmp_path / f"s{len(services)}"
        folder.mkdir()
        address = keys.pop("address", gate.address)
        service = ContainerService(folder, address, keys.pop("client", client))
        services.append(service)
        service.write(*models, **keys)
        await service.start()
        return service

    yield start
    for service in services:
        await service.end()
