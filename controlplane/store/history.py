"""The rows of requests and attempts: how the journal writes them and how they are listed."""

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select, tuple_, update

from controlplane.core.model import InferenceType, Outcome, RequestStatus
from controlplane.store import events
from controlplane.store.backlog import JournalRow, RequestRow, coalesce
from controlplane.store.records import (
    AttemptRecord,
    Mode,
    Page,
    RequestFilter,
    RequestFinished,
    RequestHistory,
    RequestRecord,
    RequestStarted,
)
from controlplane.store.tables import attempts, requests
from controlplane.store.upsert import upsert

Position = tuple[float, str]

_INTERRUPTED = "the control plane stopped while the request was in flight; send it again"


def write(connection: Connection, rows: Sequence[JournalRow]) -> None:
    """Write what the journal gathered: one row per request, in the state it reached last."""
    backlog = coalesce(rows)
    if backlog.requests:
        connection.execute(upsert(connection, requests), [_columns(row) for row in backlog.requests.values()])
    if backlog.attempts:
        connection.execute(upsert(connection, attempts), [_attempt_columns(row) for row in backlog.attempts.values()])
    events.write(connection, backlog.events)


def interrupt_open(connection: Connection, at: float) -> int:
    """End the sync requests that are open on disk, and their attempts; returns how many requests."""
    ours = (requests.c.mode == Mode.SYNC.value) & requests.c.finished_at.is_(None)
    ended = {"finished_at": at, "outcome": Outcome.INTERRUPTED.value}
    connection.execute(
        update(attempts)
        .where(attempts.c.finished_at.is_(None), attempts.c.request_id.in_(select(requests.c.request_id).where(ours)))
        .values(**ended, error=_INTERRUPTED)
    )
    status = Outcome.INTERRUPTED.status.value
    failed = {**ended, "status": status, "error_code": Outcome.INTERRUPTED.value, "error_message": _INTERRUPTED}
    return connection.execute(update(requests).where(ours).values(failed)).rowcount


def page(connection: Connection, wanted: RequestFilter, position: Position | None, limit: int) -> Page:
    """Up to `limit` requests that match, newest first, after `position`."""
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    order = tuple_(requests.c.created_at, requests.c.request_id)
    query = select(requests).order_by(requests.c.created_at.desc(), requests.c.request_id.desc()).limit(limit + 1)
    for column, value in _conditions(wanted).items():
        query = query.where(requests.c[column] == value)
    if position is not None:
        query = query.where(order < tuple_(*position))
    records = [_record(row) for row in connection.execute(query)]
    more = len(records) > limit
    return Page(tuple(records[:limit]), _encode_cursor(records[limit - 1]) if more else None)


def one(connection: Connection, request_id: str) -> RequestHistory | None:
    row = connection.execute(select(requests).where(requests.c.request_id == request_id)).one_or_none()
    if row is None:
        return None
    tries = select(attempts).where(attempts.c.request_id == request_id).order_by(attempts.c.n)
    return RequestHistory(_record(row), tuple(_attempt(row) for row in connection.execute(tries)))


def decode_cursor(cursor: str) -> Position:
    """The place a cursor stands for; ValueError when it is none of ours."""
    created_at, comma, request_id = cursor.partition(",")
    try:
        place = float(created_at)
    except ValueError:
        place = math.nan
    if not comma or not math.isfinite(place):
        raise ValueError(f"unknown cursor {cursor!r}: pass next_cursor as the last page gave it, or none")
    return place, request_id


def _encode_cursor(last: RequestRecord) -> str:
    return f"{last.created_at!r},{last.request_id}"


def _conditions(wanted: RequestFilter) -> dict[str, str]:
    conditions = {
        "model_id": wanted.model_id,
        "status": wanted.status and wanted.status.value,
        "outcome": wanted.outcome and wanted.outcome.value,
        "client": wanted.client,
    }
    return {column: value for column, value in conditions.items() if value is not None}


def _columns(row: RequestRow) -> dict[str, Any]:
    """A request's whole row. Figures not known yet are NULL, so that one statement fits all rows."""
    if isinstance(row, RequestFinished):
        accepted = row.accepted
        columns = row._asdict() | {"status": row.outcome.status.value, "attempts": len(row.attempts)}
        columns["outcome"] = row.outcome.value
        del columns["accepted"]
    elif isinstance(row, RequestStarted):
        accepted = row.accepted
        columns = _UNKNOWN | {"status": RequestStatus.PROCESSING.value, "attempts": row.attempt.n}
        columns["started_at"] = row.attempt.started_at
    else:
        accepted = row
        columns = _UNKNOWN | {"status": RequestStatus.PENDING.value, "attempts": 0}
    return columns | accepted._asdict() | {"type": accepted.type.value, "mode": accepted.mode.value}


_UNKNOWN: dict[str, Any] = dict.fromkeys(set(RequestFinished._fields) - {"accepted"})


def _attempt_columns(row: AttemptRecord) -> dict[str, Any]:
    return row._asdict() | {"outcome": row.outcome and row.outcome.value}


def _record(row: Row[Any]) -> RequestRecord:
    columns = row._asdict()
    columns |= {
        "mode": Mode(row.mode),
        "type": InferenceType(row.type),
        "status": RequestStatus(row.status),
        "outcome": row.outcome and Outcome(row.outcome),
    }
    return RequestRecord(**columns)


def _attempt(row: Row[Any]) -> AttemptRecord:
    return AttemptRecord(**row._asdict() | {"outcome": row.outcome and Outcome(row.outcome)})
