"""The labels of a replica's container: the adoption key, enough to find a replica again without any record.

Writes and reads labels and names; talks to no engine.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from adapters.endpoint import Endpoint
from controlplane.ports import ReplicaOrder

MANAGED = "im.managed"
STORE = "im.store"
REPLICA = "im.replica"
ERRAND = "im.errand"
_GENERATION = "im.generation"
_CONFIG_HASH = "im.config-hash"
_SOCKET = "im.socket"
_PORT = "im.port"


@dataclass(frozen=True, slots=True)
class ContainerLabel:
    """Which replica a container is. It listens on `socket`, or on `port` of its own network address."""

    replica_id: str
    generation: int
    config_hash: str
    socket: str | None
    port: int | None

    @property
    def key(self) -> tuple[str, int]:
        return self.replica_id, self.generation

    def endpoint(self, host: str, port: int | None = None) -> Endpoint:
        """Where it listens, seen from here; `port` where it is published under another."""
        if self.socket is not None:
            return Endpoint.unix(self.socket)
        reached = port or self.port
        if reached is None:
            raise ValueError(f"the container of {self.replica_id} is labelled with neither socket nor port")
        return Endpoint.tcp(host, reached)


def container_name(store_id: str, replica_id: str) -> str:
    """A name that follows from the row, so that a second container of one replica cannot be made."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", replica_id)[:40]
    return f"im-{store_id}-{readable}-{hashlib.sha256(replica_id.encode()).hexdigest()[:8]}"


def to_labels(order: ReplicaOrder, store_id: str, socket: str | None, port: int | None) -> dict[str, str]:
    labels = {
        MANAGED: "1",
        STORE: store_id,
        REPLICA: order.replica_id,
        _GENERATION: str(order.generation),
        _CONFIG_HASH: order.config_hash,
    }
    if socket is not None:
        labels[_SOCKET] = socket
    if port is not None:
        labels[_PORT] = str(port)
    return labels


def from_labels(labels: Mapping[str, str]) -> ContainerLabel | None:
    """None when it is not a replica's, or somebody wrote over it."""
    try:
        port = labels.get(_PORT)
        return ContainerLabel(
            labels[REPLICA],
            int(labels[_GENERATION]),
            labels[_CONFIG_HASH],
            labels.get(_SOCKET),
            None if port is None else int(port),
        )
    except (KeyError, ValueError):
        return None
