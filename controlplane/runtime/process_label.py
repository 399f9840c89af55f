"""The label that every process of a replica carries in its environment, inherited by all it starts.

It is the adoption key: what a label says is enough to find a replica again, so
no second record of it is kept. Writes and reads labels; looks at no process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from adapters.endpoint import Endpoint
from controlplane.ports import ReplicaOrder

_STORE = "IM_STORE"
_REPLICA = "IM_REPLICA"
_GENERATION = "IM_GENERATION"
_CONFIG_HASH = "IM_CONFIG_HASH"
_ENDPOINT = "IM_ENDPOINT"
# setproctitle, which vLLM calls, overwrites the memory behind /proc/PID/environ unless this is set.
_KEEP_ENVIRON = {"SPT_NOENV": "1"}


class Stranger(Enum):
    """Why an environment holds no label of ours: it has none, or another store's."""

    UNLABELLED = "unlabelled"
    OTHER_STORE = "other store"


@dataclass(frozen=True, slots=True)
class Label:
    """Which replica a process belongs to."""

    replica_id: str
    generation: int
    config_hash: str
    endpoint: Endpoint

    @property
    def key(self) -> tuple[str, int]:
        return self.replica_id, self.generation


def label_of(order: ReplicaOrder, endpoint: Endpoint) -> Label:
    return Label(order.replica_id, order.generation, order.config_hash, endpoint)


def to_environment(label: Label, store_id: str) -> dict[str, str]:
    """The variables that make a process carry `label`."""
    return {
        _STORE: store_id,
        _REPLICA: label.replica_id,
        _GENERATION: str(label.generation),
        _CONFIG_HASH: label.config_hash,
        _ENDPOINT: label.endpoint.url,
        **_KEEP_ENVIRON,
    }


def from_environment(environ: bytes, store_id: str) -> Label | Stranger:
    """Read the NUL-separated contents of /proc/PID/environ."""
    if _STORE.encode() not in environ:
        return Stranger.UNLABELLED
    entries = (entry.partition(b"=") for entry in environ.split(b"\0"))
    variables = {name.decode(errors="replace"): value.decode(errors="surrogateescape") for name, _, value in entries}
    if _STORE not in variables:
        return Stranger.UNLABELLED
    if variables[_STORE] != store_id:
        return Stranger.OTHER_STORE
    try:
        return _parse(variables)
    except (KeyError, ValueError):
        return Stranger.UNLABELLED


def _parse(variables: Mapping[str, str]) -> Label:
    return Label(
        variables[_REPLICA], int(variables[_GENERATION]), variables[_CONFIG_HASH], _endpoint(variables[_ENDPOINT])
    )


def _endpoint(url: str) -> Endpoint:
    """The inverse of `Endpoint.url`; raises ValueError for anything else."""
    scheme, _, rest = url.partition(":")
    if scheme == "unix":
        return Endpoint.unix(rest)
    host, _, port = rest.removeprefix("//").rpartition(":")
    return Endpoint.tcp(host.removeprefix("[").removesuffix("]"), int(port))
