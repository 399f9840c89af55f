"""What of each device's memory is spoken for: by reservations, by holds, and what is left.

Pure sums over the snapshot. A reservation counts until its replica is proved
gone, whatever anybody measured or promised meanwhile.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.core.model import DeviceBudget, Hold, ModelSpec, Replica


def booked_mib(replicas: Mapping[str, Replica], device_id: str) -> int:
    return sum(r.reserved_mib for r in replicas.values() if r.holds_memory and r.device_id == device_id)


@dataclass(frozen=True, slots=True)
class Measured:
    """What sensors said of a device; None where the platform does not tell."""

    total_mib: int
    used_mib: int | None
    replicas_mib: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One device's account, in MiB.

    declared: what the files say its models need; booked: reservations; held:
    room being freed for a waiting model; measured: our replicas' real use;
    unattributed: used by others; free: what a new reservation may take.
    """

    device_id: str
    total_mib: int
    budget_mib: int
    declared_mib: int
    booked_mib: int
    held_mib: int
    measured_mib: int
    unattributed_mib: int | None
    free_mib: int


@dataclass(frozen=True, slots=True)
class Books:
    """The facts a ledger line is drawn from."""

    models: Mapping[str, ModelSpec]
    replicas: Mapping[str, Replica]
    holds: tuple[Hold, ...]


def ledger_line(device: DeviceBudget, books: Books, measured: Measured) -> LedgerLine:
    here = [r for r in books.replicas.values() if r.holds_memory and r.device_id == device.device_id]
    booked = sum(r.reserved_mib for r in here)
    ours = sum(measured.replicas_mib.get(r.replica_id, 0) for r in here)
    return LedgerLine(
        device_id=device.device_id,
        total_mib=measured.total_mib,
        budget_mib=device.budget_mib,
        declared_mib=sum(books.models[r.model_id].vram_mib for r in here if r.model_id in books.models),
        booked_mib=booked,
        held_mib=sum(h.mib for h in books.holds if h.device_id == device.device_id),
        measured_mib=ours,
        unattributed_mib=None if measured.used_mib is None else max(0, measured.used_mib - ours),
        free_mib=max(0, device.budget_mib - booked),
    )
