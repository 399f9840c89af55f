"""The rows of batches: each state is entered from the states it may follow, or not at all; the answer tells."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from controlplane.core.model import Outcome
from controlplane.store import files, idempotency
from controlplane.store.batch_records import OVER, BatchEnd, BatchRecord, BatchStatus, LineProblem
from controlplane.store.records import IdempotencyClaim
from controlplane.store.tables import batch_lines, batches
from controlplane.store.tables import files as file_rows

_COLUMNS = [batches.c[each.name] for each in fields(BatchRecord)]
_OPEN = batches.c.status.not_in([status.value for status in OVER])
_CANCELLABLE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)


def create(connection: Connection, row: BatchRecord, claim: IdempotencyClaim | None) -> BatchRecord | None:
    """The new batch, or the one its key stands for already; None when its file is gone. Raises KeyReused."""
    if claim is not None:
        standing = idempotency.claim(connection, claim, row.batch_id, row.created_at)
        if standing != row.batch_id:
            return one(connection, standing)
    if connection.scalar(select(file_rows.c.file_id).where(file_rows.c.file_id == row.input_file_id)) is None:
        return None
    connection.execute(insert(batches), _values(row))
    return row


def one(connection: Connection, batch_id: str) -> BatchRecord | None:
    row = connection.execute(select(*_COLUMNS).where(batches.c.batch_id == batch_id)).one_or_none()
    return None if row is None else _record(row)


def page(
    connection: Connection, wanted: Sequence[ColumnElement[bool]], after: str | None, limit: int
) -> list[BatchRecord]:
    """Up to `limit` batches that match, newest first, behind the batch `after`."""
    query = select(*_COLUMNS).where(*wanted)
    if after is not None:
        query = query.where(files.behind(batches, "batch_id", after, newest=True))
    order = batches.c.created_at.desc(), batches.c.batch_id.desc()
    return [_record(row) for row in connection.execute(query.order_by(*order).limit(limit))]


def not_over(connection: Connection) -> list[BatchRecord]:
    """Every open batch, oldest first."""
    query = select(*_COLUMNS).where(_OPEN).order_by(batches.c.created_at, batches.c.batch_id)
    return [_record(row) for row in connection.execute(query)]


def begin(connection: Connection, batch_id: str, total: int, at: float) -> bool:
    """Its file is good; False when it was cancelled meanwhile."""
    return _enter(connection, batch_id, BatchStatus.IN_PROGRESS, (BatchStatus.VALIDATING,), at, total=total)


def refuse(connection: Connection, batch_id: str, problems: Sequence[LineProblem], at: float) -> bool:
    """Its file is not good; False when it was cancelled meanwhile."""
    told = [asdict(problem) for problem in problems]
    return _enter(connection, batch_id, BatchStatus.FAILED, (BatchStatus.VALIDATING,), at, errors=told)


def cancel(connection: Connection, batch_id: str, at: float) -> bool:
    """False when it is too late, or was done before."""
    return _enter(connection, batch_id, BatchStatus.CANCELLING, _CANCELLABLE, at)


def finalize(connection: Connection, batch_id: str, at: float) -> bool:
    return _enter(connection, batch_id, BatchStatus.FINALIZING, (BatchStatus.IN_PROGRESS,), at)


def finish(connection: Connection, end: BatchEnd) -> bool:
    """Its files and its last state, together; False when it was over."""
    before = [status for status in BatchStatus if status not in OVER]
    named = {
        "output_file_id": end.output and end.output.file_id,
        "error_file_id": end.errors and end.errors.file_id,
        "completed": end.completed,
        "failed": end.failed,
    }
    if not _enter(connection, end.batch_id, end.status, before, end.at, **named):
        return False
    for row in (end.output, end.errors):
        if row is not None:
            files.write(connection, row)
    return True


def note_end(connection: Connection, request_id: str, outcome: Outcome) -> bool:
    """Count the end of a job where it is a line of a batch; whether that was the batch's last.

    Belongs into the transaction of the outcome.
    """
    counted = batches.c.completed if outcome is Outcome.SUCCEEDED else batches.c.failed
    mine = select(batch_lines.c.batch_id).where(batch_lines.c.request_id == request_id).scalar_subquery()
    statement = update(batches).where(batches.c.batch_id == mine).values({counted: counted + 1})
    row = connection.execute(statement.returning(batches.c.total, batches.c.completed, batches.c.failed)).one_or_none()
    return row is not None and row.completed + row.failed >= row.total


def _enter(
    connection: Connection,
    batch_id: str,
    status: BatchStatus,
    before: Sequence[BatchStatus],
    at: float,
    **values: object,
) -> bool:
    found = one(connection, batch_id)
    if found is None or found.status not in before:
        return False
    stamps = {**found.stamps, status.value: at}
    changed = update(batches).where(batches.c.batch_id == batch_id, batches.c.status == found.status.value)
    return connection.execute(changed.values(status=status.value, stamps=stamps, **values)).rowcount > 0


def _values(row: BatchRecord) -> dict[str, Any]:
    values = {each.name: getattr(row, each.name) for each in fields(row)}
    return values | {"status": row.status.value, "errors": [asdict(problem) for problem in row.errors]}


def _record(row: Row[tuple[object, ...]]) -> BatchRecord:
    values = row._asdict()
    problems = tuple(LineProblem(**problem) for problem in values.pop("errors"))
    return BatchRecord(**{**values, "status": BatchStatus(values["status"]), "errors": problems})
