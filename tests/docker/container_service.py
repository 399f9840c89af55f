"""`inferctl serve` whose engines are containers: what it runs is seen through the raw Docker socket, past the gate."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from controlplane.runtime.docker_label import container_name
from tests.integration.service import Service


class ContainerService(Service):
    """One state directory, with its engines behind the gate at `address`. `client` is past the gate."""

    def __init__(self, folder: Path, address: str, client: docker.DockerClient) -> None:
        super().__init__(folder)
        self.client = client
        self._address = address

    def write(self, *models: dict[str, Any], **keys: Any) -> None:
        """As a service of processes; `docker` holds more for the section `runtime.docker`."""
        section = {"address": self._address, **keys.pop("docker", {})}
        super().write(*models, runtime={"kind": "docker", "docker": section}, **keys)

    def containers(self, replica_id: str | None = None, *, alive: bool = False) -> list[Container]:
        """Every container with our label, dead ones too unless only the living are asked for."""
        labels = [f"im.store={self.store_id}", *([f"im.replica={replica_id}"] if replica_id else [])]
        listed = self.client.containers.list(all=True, filters={"label": labels}, ignore_removed=True)
        return [one for one in listed if not alive or one.status in ("running", "paused")]

    async def container(self, replica_id: str) -> Container:
        """The one that the API says serves the replica."""
        handle = (await self.replica(replica_id))["handle"]
        return self.client.containers.get(handle.removeprefix("container "))

    def name(self, replica_id: str) -> str:
        return container_name(self.store_id, replica_id)

    def assert_nothing_left(self) -> None:
        """No container in whatever state, no socket."""
        left = [(one.name, one.status) for one in self.containers()]
        assert not left, left
        assert not self.litter(), self.litter()

    def litter(self) -> list[str]:
        """Engines' sockets."""
        return [str(path) for path in (self.state_dir / "run" / "sockets").glob("*")]

    def _kill_all(self) -> None:
        super()._kill_all()
        for one in self.containers():
            one.remove(force=True, v=True)


Serve = Callable[..., Awaitable[ContainerService]]
"""The fixture `serve`: entries and sections of a configuration to a running service."""
