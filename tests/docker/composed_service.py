"""The shipped compose files, brought up by `make up` under a name of their own: everything in it is a container.

Differs from what is shipped in names, port, budget and pauses only.
"""

import asyncio
import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

import docker
import httpx
from docker.models.containers import Container
from openai import AsyncOpenAI

from tests.docker.container_service import ContainerService
from tests.docker.provision import ROOT
from tests.integration.service import PATIENCE_SECONDS, until

KEY = "a key for the tests"
# The chat model with the drawing one or with the caption one, and not all three.
BUDGET_MIB = 4096
COLD_SECONDS = 600.0
_SHIPPED_NAME = "inference-manager"
_UP_SECONDS = 300
_SETTINGS = {
    "devices": {"source": "host", "budgets_mib": {"host": BUDGET_MIB}},
    "scheduling": {
        "min_residency_seconds": 0,
        "resync_seconds": 1,
        "backoff_initial_seconds": 0.2,
        "default_deadline_seconds": COLD_SECONDS,
    },
}


class ComposedService(ContainerService):
    """One installation; its models lie in `models_dir`, a folder of this host. `client` is past the gate."""

    def __init__(self, folder: Path, models_dir: Path, client: docker.DockerClient) -> None:
        super().__init__(folder, "", client)
        self.project = f"im-test-{uuid.uuid4().hex[:8]}"
        self.state_dir = Path("/var/lib/inference-manager", self.project)
        self._models_dir = models_dir

    def configure(self) -> None:
        """The shipped configuration, under our name."""
        shipped = (ROOT / "compose" / "config" / "inference_manager.json").read_text()
        settings = json.loads(shipped.replace(f'"{_SHIPPED_NAME}-', f'"{self.project}-'))
        self.config.write_text(json.dumps({**settings, **_SETTINGS, "state_dir": str(self.state_dir)}))

    async def start(self) -> None:
        """`make up`, and wait until it takes work."""
        await self._make("up")
        await self._reach()

    async def restart(self) -> None:
        """`docker restart` of the control plane alone."""
        await self.hang_up()
        await asyncio.to_thread(self.part("controlplane").restart)
        await self._reach()

    async def end(self) -> None:
        """`make down`, and nothing of ours is left but volumes that nobody uses."""
        await self.hang_up()
        try:
            await self._make("down")
            self.assert_nothing_left()
        finally:
            self._kill_all()
            for network in self._networks():
                network.remove()
            for volume in self._volumes():
                volume.remove()
        assert not self._volumes()

    def assert_nothing_left(self) -> None:
        left = [one.name for one in [*self.containers(), *self._parts(), *self._networks()]]
        assert not left, left

    def part(self, name: str) -> Container:
        """The container of a part of the compose file."""
        return next(one for one in self._parts() if one.labels["com.docker.compose.service"] == name)

    def logs(self) -> str:
        """What its parts said, for when a test fails."""
        return "\n".join(f"{one.name}:\n{one.logs(tail=200).decode(errors='replace')}" for one in self._parts())

    @property
    def http(self) -> httpx.AsyncClient:
        assert self._http is not None
        return self._http

    def openai(self, **options: Any) -> AsyncOpenAI:
        return super().openai(**{"api_key": KEY, "timeout": COLD_SECONDS, **options})

    async def _make(self, target: str) -> None:
        variables = {
            "COMPOSE_PROJECT_NAME": self.project,
            "INFERENCE_MANAGER_NAME": self.project,
            "INFERENCE_MANAGER_KEY": KEY,
            "INFERENCE_MANAGER_PORT": "0",
            "INFERENCE_MANAGER_CONFIG": str(self.config),
        }
        command = ["make", target, "BUILD=", "GPU=0", f"MODELS_DIR={self._models_dir}"]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            cwd=ROOT,
            env={**_environment(), **variables},
            capture_output=True,
            text=True,
            timeout=_UP_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.logs()}"

    async def _reach(self) -> None:
        """The port is another after every start."""
        part = self.part("controlplane")
        part.reload()
        (published,) = part.ports["8000/tcp"]
        assert published["HostIp"] == "127.0.0.1"
        self.base_url = f"http://127.0.0.1:{published['HostPort']}"
        headers = {"authorization": f"Bearer {KEY}"}
        self._http = httpx.AsyncClient(base_url=self.base_url, headers=headers, timeout=PATIENCE_SECONDS)
        await until(self._answers, what="the control plane answers")

    async def _answers(self) -> bool:
        part = self.part("controlplane")
        assert part.status in ("created", "running"), self.logs()
        try:
            return (await self.http.get("/ready")).status_code == 200
        except httpx.TransportError:
            return False

    def _parts(self) -> list[Container]:
        return list(self.client.containers.list(all=True, filters=self._of_project(), ignore_removed=True))

    def _networks(self) -> list[Any]:
        return list(self.client.networks.list(filters=self._of_project()))

    def _volumes(self) -> list[Any]:
        return list(self.client.volumes.list(filters=self._of_project()))

    def _of_project(self) -> dict[str, Any]:
        return {"label": f"com.docker.compose.project={self.project}"}

    def _kill_all(self) -> None:
        super()._kill_all()
        for one in self._parts():
            one.remove(force=True, v=True)


def _environment() -> dict[str, str]:
    """Ours without what an outer make told it: its settings are not this installation's."""
    theirs = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    return {name: value for name, value in os.environ.items() if name not in theirs}
