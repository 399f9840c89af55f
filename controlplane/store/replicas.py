"""The rows of replicas and their reservations, changed by compare-and-set on the generation."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, select, update
from sqlalchemy import delete as delete_from

from controlplane.core.model import ReplicaState
from controlplane.store import events
from controlplane.store.errors import StaleWrite
from controlplane.store.records import EventDraft, ReplicaChange, ReplicaRecord
from controlplane.store.tables import replicas, reservations
from controlplane.store.upsert import insert_absent, upsert


def write(connection: Connection, changes: Sequence[ReplicaChange], at: float) -> None:
    """Write all changes with their reservations and events; StaleWrite at the first that does not fit."""
    for change in changes:
        _write_row(connection, change)
        _write_reservation(connection, change.record)
        events.write_draft(connection, change.event, change.record.replica_id, at)


def read(connection: Connection) -> list[ReplicaRecord]:
    query = (
        select(replicas, reservations.c.mib.label("reserved_mib"))
        .outerjoin(reservations, reservations.c.replica_id == replicas.c.replica_id)
        .order_by(replicas.c.replica_id)
    )
    rows = [row._asdict() for row in connection.execute(query)]
    return [ReplicaRecord(**{**row, "state": ReplicaState(row["state"])}) for row in rows]


def delete(connection: Connection, replica_id: str, generation: int, event: EventDraft | None, at: float) -> None:
    """Remove the row; its reservation goes with it."""
    matching = (replicas.c.replica_id == replica_id) & (replicas.c.generation == generation)
    if connection.execute(delete_from(replicas).where(matching)).rowcount == 0:
        raise _stale(connection, "delete", replica_id, generation)
    events.write_draft(connection, event, replica_id, at)


def _write_row(connection: Connection, change: ReplicaChange) -> None:
    record, expected = change.record, change.expected_generation
    values = {**asdict(record), "state": record.state.value}
    del values["reserved_mib"]
    if expected is None:
        result = connection.execute(insert_absent(connection, replicas).values(values))
    else:
        matching = (replicas.c.replica_id == record.replica_id) & (replicas.c.generation == expected)
        result = connection.execute(update(replicas).where(matching).values(values))
    if result.rowcount == 0:
        raise _stale(connection, "write", record.replica_id, expected)


def _write_reservation(connection: Connection, record: ReplicaRecord) -> None:
    if record.reserved_mib is None:
        connection.execute(delete_from(reservations).where(reservations.c.replica_id == record.replica_id))
        return
    row = {"replica_id": record.replica_id, "device_id": record.device_id, "mib": record.reserved_mib}
    connection.execute(upsert(connection, reservations), row)


def _stale(connection: Connection, action: str, replica_id: str, expected: int | None) -> StaleWrite:
    found = connection.scalar(select(replicas.c.generation).where(replicas.c.replica_id == replica_id))
    there = "has no row" if found is None else f"is at generation {found}"
    wanted = "no row" if expected is None else f"generation {expected}"
    return StaleWrite(f"cannot {action} replica {replica_id}: it {there}, expected {wanted}")
