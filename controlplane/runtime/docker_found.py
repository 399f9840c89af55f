"""What of our replicas the Docker engine holds now, alive or dead, read from labels and inspection. Blocking."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import docker
import requests
from docker.errors import APIError, NotFound
from docker.models.containers import Container

from adapters.endpoint import Endpoint
from controlplane.ports import ReplicaExit, RunningReplica
from controlplane.runtime.docker_container import PORT, DockerSettings
from controlplane.runtime.docker_label import MANAGED, REPLICA, STORE, ContainerLabel, from_labels

T = TypeVar("T")
U = TypeVar("U")
_MIB = 1024 * 1024
# Enough to reach from an engine's last words back over its traceback to the cause.
_REASON_LINES = 100


@dataclass(frozen=True, slots=True)
class FoundContainer:
    """One container of ours, as inspected. `limit_mib` 0: none.

    `host`: its address on the private network, or its name where it has none, as when it has ended.
    """

    container_id: str
    label: ContainerLabel
    alive: bool
    frozen: bool
    exit_code: int
    out_of_memory: bool
    limit_mib: int
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
    """Every container of the store, or those of a replica, whatever names they have been given since."""
    filters: dict[str, Any] = {"label": [f"{MANAGED}=1", f"{STORE}={settings.store_id}"]}
    if replica_id is not None:
        filters["label"].append(f"{REPLICA}={replica_id}")
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
        frozen=state["Status"] == "paused",
        exit_code=int(state["ExitCode"]),
        out_of_memory=bool(state["OOMKilled"]),
        limit_mib=int(container.attrs["HostConfig"]["Memory"]) // _MIB,
        error=str(state["Error"]),
        host=str(joined.get("IPAddress") or container.name),
        published_port=_published(network.get("Ports") or {}),
    )


def _published(ports: Mapping[str, list[Mapping[str, str]] | None]) -> int | None:
    bound = ports.get(f"{PORT}/tcp")
    return int(bound[0]["HostPort"]) if bound else None


def log_lines(client: docker.DockerClient, container_id: str, lines: int) -> list[str] | None:
    """The last lines of its log, newest last; None when the container is gone."""
    if lines <= 0:
        return []
    text: bytes | None = _unless_gone(lambda: client.api.logs(container_id, tail=lines), None)
    return None if text is None else text.decode(errors="replace").splitlines()[-lines:]


def used_mib(client: docker.DockerClient, container_id: str) -> int | None:
    """Its memory without what the kernel would drop for the asking; None when it is gone."""
    try:
        stats = client.api.stats(container_id, stream=False, one_shot=True)
    except (NotFound, requests.exceptions.JSONDecodeError):  # no body at all: it went while it was measured
        return None
    memory = stats.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    details = memory.get("stats") or {}
    reclaimable = details.get("total_inactive_file", details.get("inactive_file", 0))
    return max(1, int(memory["usage"] - reclaimable) // _MIB)


def pids(client: docker.DockerClient, container_id: str) -> list[int]:
    """Its processes, as this machine numbers them; empty when it is gone."""
    table = _unless_gone(lambda: client.api.top(container_id, ps_args="-eo pid"), None)
    return [int(row[0]) for row in table["Processes"]] if table else []


def remove(client: docker.DockerClient, container_id: str) -> None:
    """Kill what runs of it, and return when it is gone, by us or by somebody who was faster."""
    try:
        client.api.remove_container(container_id, v=True, force=True)
    except NotFound:
        return
    except APIError as exc:
        if exc.status_code != HTTPStatus.CONFLICT:
            raise
        _unless_gone(lambda: client.api.wait(container_id, condition="removed"), None)


def _unless_gone(ask: Callable[[], T], otherwise: U) -> T | U:
    """`otherwise` for a container that is gone, has ended, or is being removed."""
    try:
        return ask()
    except APIError as exc:
        if exc.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise
        return otherwise


def exit_of(one: FoundContainer, lines: list[str]) -> ReplicaExit:
    words = f"exit code {one.exit_code}" + (f": {one.error}" if one.error else "")
    if one.out_of_memory:
        words = f"out of memory: it was killed for taking more than its limit of {one.limit_mib} MiB"
    reason = "\n".join([f"{words}; its log ends:", *lines]) if lines else f"{words}; its log is empty"
    return ReplicaExit(one.label.replica_id, one.label.generation, one.exit_code, reason)


def last_words(client: docker.DockerClient, container_id: str) -> list[str]:
    return log_lines(client, container_id, _REASON_LINES) or []
