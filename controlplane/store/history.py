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
    RequestAccepted,
    RequestFilter,
    RequestFinished,
    RequestHistory,
    RequestRecord,
    RequestStarted,
)
from controlplane.store.tables import attempts, requests, tags
from controlplane.store.upsert import Value, upsert_many

Position = tuple[float, str]

_INTERRUPTED = "the control plane stopped while the request was in flight; send it again"


def write(connection: Connection, rows: Sequence[JournalRow]) -> None:
    """Write what the journal gathered: one row per request, in the state it reached last."""
    backlog = coalesce(rows)
    if backlog.requests:
        upsert_many(connection, requests, [_request_values(row) for row in backlog.requests.values()])
    if backlog.attempts:
        tries = [attempt_values(row) for row in backlog.attempts.values()]
        upsert_many(connection, attempts, tries)
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
    if wanted.tag is not None:
        query = query.join(tags, tags.c.request_id == requests.c.request_id).where(tags.c.tag == wanted.tag)
    if position is not None:
        query = query.where(order < tuple_(*position))
    records = [_record(row) for row in connection.execute(query)]
    more = len(records) > limit
    last = records[limit - 1] if more else None
    return Page(tuple(records[:limit]), encode_cursor(last.created_at, last.request_id) if last else None)


def one(connection: Connection, request_id: str) -> RequestHistory | None:
    row = connection.execute(select(requests).where(requests.c.request_id == request_id)).one_or_none()
    if row is None:
        return None
    return RequestHistory(_record(row), attempts_of(connection, request_id))


def attempts_of(connection: Connection, request_id: str) -> tuple[AttemptRecord, ...]:
    """First try first."""
    tries = select(attempts).where(attempts.c.request_id == request_id).order_by(attempts.c.n)
    return tuple(_attempt(row) for row in connection.execute(tries))


def pending_values(row: RequestAccepted) -> tuple[Value, ...]:
    """The whole row of a request that nothing happened to yet, in the order of its columns."""
    return _request_values(row)


def outcome_values(row: RequestFinished) -> dict[str, Value]:
    """What the end of a request adds to its row; its tries are counted when they begin."""
    names = (column.name for column in requests.columns)
    values = dict(zip(names, _request_values(row), strict=True))
    return {name: values[name] for name in _OF_THE_END}


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


def encode_cursor(created_at: float, request_id: str) -> str:
    """The cursor that stands for the last row of a page."""
    return f"{created_at!r},{request_id}"


def _conditions(wanted: RequestFilter) -> dict[str, str]:
    conditions = {
        "model_id": wanted.model_id,
        "status": wanted.status and wanted.status.value,
        "outcome": wanted.outcome and wanted.outcome.value,
        "client": wanted.client,
        "mode": wanted.mode and wanted.mode.value,
    }
    return {column: value for column, value in conditions.items() if value is not None}


_NOTHING_MEASURED = (None,) * 7
_OF_THE_END = (
    *("status", "outcome", "finished_at", "http_status", "error_code", "error_message"),
    *("prompt_tokens", "completion_tokens", "wait_seconds", "first_byte_seconds"),
)


def _request_values(row: RequestRow) -> tuple[Value, ...]:
    """A request's whole row, in the order of its columns."""
    if isinstance(row, RequestFinished):
        return (*_accepted_values(row.accepted), *_finished_values(row))
    if isinstance(row, RequestStarted):
        state = (RequestStatus.PROCESSING.value, None, row.attempt.started_at, None, row.attempt.n)
        return (*_accepted_values(row.accepted), *state, *_NOTHING_MEASURED)
    return (*_accepted_values(row), RequestStatus.PENDING.value, None, None, None, 0, *_NOTHING_MEASURED)


def _accepted_values(row: RequestAccepted) -> tuple[Value, ...]:
    return (
        *(row.request_id, row.mode.value, row.path, row.type.value, row.model_id, row.priority),
        *(row.created_at, row.deadline_at, row.client, row.stream),
    )


def _finished_values(row: RequestFinished) -> tuple[Value, ...]:
    return (
        *(row.outcome.status.value, row.outcome.value, row.started_at, row.finished_at, len(row.attempts)),
        *(row.http_status, row.error_code, row.error_message),
        *(row.prompt_tokens, row.completion_tokens, row.wait_seconds, row.first_byte_seconds),
    )


def attempt_values(row: AttemptRecord) -> tuple[Value, ...]:
    """An attempt's row, in the order of its columns."""
    return (*row[:6], row.outcome and row.outcome.value, row.error)


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
