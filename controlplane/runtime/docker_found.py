"""What of our replicas the Docker engine holds now, alive or dead, read from labels and inspection. Blocking."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import docker
from docker.errors import NotFound
from docker.models.containers import Container

from adapters.endpoint import Endpoint
from controlplane.ports import ReplicaExit, RunningReplica
from controlplane.runtime.docker_container import PORT, DockerSettings
from controlplane.runtime.docker_label import MANAGED, STORE, ContainerLabel, container_name, from_labels

_MIB = 1024 * 1024
# Enough to reach from an engine's last words back over its traceback to the cause.
_REASON_LINES = 100


@dataclass(frozen=True, slots=True)
class FoundContainer:
    """One container of ours, as inspected. `host`: its address on the private network, empty when it has none."""

    container_id: str
    label: ContainerLabel
    alive: bool
    exit_code: int
    out_of_memory: bool
    error: str
    host: str
    published_port: int | None

    def replica(self, *, on_network: bool) -> RunningReplica:
        label = self.label
        endpoint = self._endpoint(on_network=on_network)
        return RunningReplica(
            label.replica_id, label.generation, label.config_hash, endpoint, f"container {self.container_id[:12]}"
        )

    def _endpoint(self, *, on_network: bool) -> Endpoint:
        if on_network:
            return self.label.endpoint(self.host)
        return self.label.endpoint("127.0.0.1", self.published_port)


def look(client: docker.DockerClient, settings: DockerSettings, replica_id: str | None = None) -> list[FoundContainer]:
    """Every container of the store, or the one of a replica."""
    filters: dict[str, Any] = {"label": [f"{MANAGED}=1", f"{STORE}={settings.store_id}"]}
    if replica_id is not None:
        filters["name"] = f"^/{container_name(settings.store_id, replica_id)}$"
    listed = client.containers.list(all=True, filters=filters, ignore_removed=True)
    found = (_inspected(container, settings) for container in listed)
    return [one for one in found if one is not None]


def _inspected(container: Container, settings: DockerSettings) -> FoundContainer | None:
    label = from_labels(container.labels)
    if label is None:
        return None
    state, network = container.attrs["State"], container.attrs["NetworkSettings"]
    joined = network["Networks"].get(settings.network) or {}
    return FoundContainer(
        container_id=str(container.id),
        label=label,
        alive=state["Status"] in ("running", "paused", "restarting"),
        exit_code=int(state["ExitCode"]),
        out_of_memory=bool(state["OOMKilled"]),
        error=str(state["Error"]),
        host=str(joined.get("IPAddress", "")),
        published_port=_published(network.get("Ports") or {}),
    )


def _published(ports: Mapping[str, list[Mapping[str, str]] | None]) -> int | None:
    bound = ports.get(f"{PORT}/tcp")
    return int(bound[0]["HostPort"]) if bound else None


def log_lines(client: docker.DockerClient, container_id: str, lines: int) -> list[str]:
    """The last lines of its log, newest last; empty when the container is gone."""
    if lines <= 0:
        return []
    try:
        text: bytes = client.containers.get(container_id).logs(tail=lines)
    except NotFound:
        return []
    return text.decode(errors="replace").splitlines()[-lines:]


def used_mib(client: docker.DockerClient, container_id: str) -> int | None:
    """Its memory without what the kernel would drop for the asking; None when it is gone."""
    try:
        stats = client.api.stats(container_id, stream=False, one_shot=True)
    except NotFound:
        return None
    memory = stats.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    details = memory.get("stats") or {}
    reclaimable = details.get("total_inactive_file", details.get("inactive_file", 0))
    return max(1, int(memory["usage"] - reclaimable) // _MIB)


def pids(client: docker.DockerClient, container_id: str) -> list[int]:
    """Its processes, as this machine numbers them; empty when it is gone."""
    try:
        table = client.api.top(container_id, ps_args="-eo pid")
    except NotFound:
        return []
    return [int(row[0]) for row in table["Processes"]]


def exit_of(one: FoundContainer, lines: list[str]) -> ReplicaExit:
    words = f"killed for taking more memory than its limit (exit code {one.exit_code})"
    if not one.out_of_memory:
        words = f"exit code {one.exit_code}" + (f": {one.error}" if one.error else "")
    reason = "\n".join([f"{words}; its log ends:", *lines]) if lines else f"{words}; its log is empty"
    return ReplicaExit(one.label.replica_id, one.label.generation, one.exit_code, reason)


def last_words(client: docker.DockerClient, container_id: str) -> list[str]:
    return log_lines(client, container_id, _REASON_LINES)
