"""The seams between the loop and the world: how replicas are run and devices are read.

Each port has one contract suite (tests/contract) that every implementation
passes, fakes included.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from adapters.base import Launch
from adapters.endpoint import Endpoint

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class ReplicaOrder:
    """Run this replica. Name and labels follow from its row, so starting twice finds the first.

    `gpus` are the indexes of the accelerators it may see.
    """

    replica_id: str
    generation: int
    config_hash: str
    launch: Launch
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RunningReplica:
    """A replica that the runtime found alive, with the labels it carries.

    `handle` is the runtime's own reference (a pid, a container id), for people.
    """

    replica_id: str
    generation: int
    config_hash: str
    endpoint: Endpoint
    handle: str


@dataclass(frozen=True, slots=True)
class ReplicaExit:
    """A replica's main process is gone. `code` is None when it could not be learned (adopted)."""

    replica_id: str
    generation: int
    code: int | None
    reason: str


class Runtime(Protocol):
    """Runs replicas. Reports exits through the callback given at construction."""

    async def start(self, order: ReplicaOrder, progress: Callable[[str], None]) -> RunningReplica:
        """Start it; `progress` gets sentences such as an environment's installation.

        Raises RuntimeFailure and leaves nothing behind. Cancelling does the same.
        """
        ...

    async def stop(self, replica_id: str, grace_seconds: float) -> None:
        """SIGTERM, wait, kill the whole tree; returns only when every process of it is gone.

        Stopping what does not run returns at once.
        """
        ...

    async def running(self) -> Sequence[RunningReplica]:
        """Everything alive that carries our store's label, rows or not; watching begins for all of it."""
        ...

    async def memory_mib(self) -> Mapping[str, int]:
        """Measured host memory of each running replica's whole process tree."""
        ...

    async def device_memory_mib(self, device_id: str) -> Mapping[str, int] | None:
        """Measured memory of each replica on an accelerator; None where the platform does not tell."""
        ...

    async def log_tail(self, replica_id: str, lines: int) -> list[str]:
        """The last lines of its log, newest last; empty when it never ran."""
        ...

    async def close(self) -> None:
        """Stop watching; replicas keep running."""
        ...


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """One device, measured. `used_mib` counts everybody on it, None when unreadable.

    `process_mib` maps pid to MiB, None where the platform hides it (WSL2).
    """

    device_id: str
    kind: Literal["host", "cuda"]
    index: int
    name: str
    total_mib: int
    used_mib: int | None
    process_mib: Mapping[int, int] | None = None


class Devices(Protocol):
    """Reads the host's devices. One failing query never drops a device once seen."""

    async def read(self) -> Sequence[DeviceReading]: ...
