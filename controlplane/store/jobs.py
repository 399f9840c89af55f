"""Jobs on disk: accepted with what they are to do, started, put back, ended with their result.

Every change of a job's state is made only if the row is still in the state it is made from; the answer tells.
What is due to others when a job ends is written in the same transaction.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect, Row, Table, delete, func, insert, select, tuple_, update

from controlplane.core.model import InferenceType, Outcome, RequestHead, RequestStatus
from controlplane.store import batches, history, idempotency, outbox
from controlplane.store.records import (
    AttemptRecord,
    JobDraft,
    JobEnd,
    JobStart,
    JobView,
    Mode,
    RequestAccepted,
    RequestFinished,
)
from controlplane.store.tables import attempts, payloads, pictures, requests, results, tags
from controlplane.store.upsert import upsert_many

_OPEN = (requests.c.mode == Mode.ASYNC.value) & requests.c.finished_at.is_(None)
_WAITING = _OPEN & (requests.c.status == RequestStatus.PENDING.value)
_RUNNING = _OPEN & (requests.c.status == RequestStatus.PROCESSING.value)
_ACCEPTED = [requests.c[name] for name in RequestAccepted._fields]


class Finished(NamedTuple):
    """Whether this was the end of a job, whether a callback is due because of it, and whether it ended a batch."""

    ended: bool
    told: bool
    batch_ended: bool = False


class InFlight(NamedTuple):
    """A job that has a try under way, and how the earlier ones ended."""

    head: RequestHead
    attempt: AttemptRecord
    outcomes: tuple[Outcome | None, ...]


def accept(connection: Connection, drafts: Sequence[JobDraft]) -> list[str]:
    """Write new jobs, pending; the id of each, or that of the job its key stands for already. Raises KeyReused.

    Values go to the driver as they are, because every accept pays for this.
    """
    ids = [_claimed(connection, draft) for draft in drafts]
    new = [draft for draft, request_id in zip(drafts, ids, strict=True) if request_id == draft.accepted.request_id]
    if new:
        _insert_many(connection, requests, [history.pending_values(draft.accepted) for draft in new])
        _insert_many(connection, payloads, [_payload_values(draft) for draft in new])
        _insert_many(connection, pictures, [(d.accepted.request_id, name) for d in new for name in set(d.pictures)])
        _insert_many(connection, tags, [(d.accepted.request_id, tag) for d in new for tag in set(d.tags)])
    return ids


def start(connection: Connection, request_id: str, replica_id: str, generation: int, at: float) -> JobStart | None:
    """Begin the next try of a waiting job; None when it is not waiting any more."""
    begun = {"status": RequestStatus.PROCESSING.value, "started_at": func.coalesce(requests.c.started_at, at)}
    changed = update(requests).where(_WAITING, requests.c.request_id == request_id).values(begun)
    if connection.execute(changed.values(attempts=requests.c.attempts + 1)).rowcount == 0:
        return None
    return _begun(connection, request_id, replica_id, generation, at)


def put_back(connection: Connection, attempt: AttemptRecord) -> bool:
    """The try ended without an outcome for the job: it waits again. False when it is not running any more."""
    changed = update(requests).where(_RUNNING, requests.c.request_id == attempt.request_id)
    if connection.execute(changed.values(status=RequestStatus.PENDING.value)).rowcount == 0:
        return False
    upsert_many(connection, attempts, [history.attempt_values(attempt)])
    return True


def finish(connection: Connection, end: JobEnd) -> Finished:
    """Write the outcome with everything that hangs on it, unless the job is not open any more."""
    row = end.finished
    changed = update(requests).where(_OPEN, requests.c.request_id == row.accepted.request_id)
    if connection.execute(changed.values(history.outcome_values(row))).rowcount == 0:
        return Finished(ended=False, told=False)
    if row.attempts:
        upsert_many(connection, attempts, [history.attempt_values(each) for each in row.attempts])
    else:
        _end_open_tries(connection, row)
    if end.result is not None:
        _insert_many(connection, results, [(row.accepted.request_id, end.result)])
    told = _tell(connection, end)
    connection.execute(delete(payloads).where(payloads.c.request_id == row.accepted.request_id))
    batch_ended = batches.note_end(connection, row.accepted.request_id, row.outcome)
    return Finished(ended=True, told=told, batch_ended=batch_ended)


def set_priority(connection: Connection, request_id: str, priority: int) -> bool:
    """False when the job is not open."""
    changed = update(requests).where(_OPEN, requests.c.request_id == request_id).values(priority=priority)
    return connection.execute(changed).rowcount > 0


def in_flight(connection: Connection) -> list[InFlight]:
    """Every job that has a try under way, in the order of its start."""
    unfinished = (attempts.c.request_id == requests.c.request_id) & attempts.c.finished_at.is_(None)
    query = select(*_HEAD, payloads.c.rows, payloads.c.batch_key, *_TRY).join(attempts, unfinished)
    query = query.join(payloads, payloads.c.request_id == requests.c.request_id).where(_RUNNING)
    found = connection.execute(query.order_by(attempts.c.started_at, requests.c.request_id)).all()
    return [_in_flight(connection, row) for row in found]


def waiting_priorities(connection: Connection) -> list[int]:
    """The priorities in which jobs wait, highest first. One look into the index for each, however many wait."""
    found: list[int] = []
    highest = select(requests.c.priority).where(_WAITING).order_by(requests.c.priority.desc()).limit(1)
    next_one: int | None = connection.scalar(highest)
    while next_one is not None:
        found.append(next_one)
        next_one = connection.scalar(highest.where(requests.c.priority < next_one))
    return found


def waiting_heads(
    connection: Connection, priority: int, after: tuple[float, str] | None, limit: int, batched: Sequence[str]
) -> list[RequestHead]:
    """The next of one priority's line, in order. Of the models `batched` also what they fill of a batch."""
    query = select(*_HEAD).where(_WAITING, requests.c.priority == priority)
    if after is not None:
        query = query.where(tuple_(requests.c.created_at, requests.c.request_id) > tuple_(*after))
    rows = connection.execute(query.order_by(requests.c.created_at, requests.c.request_id).limit(limit)).all()
    sizes = _sizes(connection, [row.request_id for row in rows if row.model_id in batched]) if batched else {}
    # By position, not by name: a million of these are read after a death.
    return [RequestHead(*row, *sizes.get(row[0], _ALONE)) for row in rows]


def view(connection: Connection, request_id: str) -> JobView | None:
    found = history.one(connection, request_id)
    if found is None:
        return None
    columns = payloads.c.callback_url, payloads.c.rows, payloads.c.batch_key
    payload = connection.execute(select(*columns).where(payloads.c.request_id == request_id)).one_or_none()
    named = tags_of(connection, [request_id]).get(request_id, ())
    return JobView(found, named, *((None, 1, "") if payload is None else payload))


def tags_of(connection: Connection, request_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    query = select(tags).where(tags.c.request_id.in_(request_ids)).order_by(tags.c.request_id, tags.c.tag)
    found: dict[str, tuple[str, ...]] = {}
    for request_id, tag in connection.execute(query):
        found[request_id] = (*found.get(request_id, ()), tag)
    return found


def result(connection: Connection, request_id: str) -> bytes | None:
    return connection.scalar(select(results.c.body).where(results.c.request_id == request_id))


def pictures_needed(connection: Connection) -> list[tuple[str, str]]:
    """Request id and artifact, of open jobs."""
    return [(request_id, artifact) for request_id, artifact in connection.execute(select(pictures))]


_HEAD = (
    requests.c.request_id,
    requests.c.model_id,
    requests.c.priority,
    requests.c.created_at,
    requests.c.deadline_at,
)
_TRY = tuple(attempts.c[name] for name in AttemptRecord._fields[1:])
_ALONE = (1, "")
# As many parameters as every SQLite takes.
_IN_ONE_QUERY = 900


def _head(row: Row[*tuple[Any, ...]], rows: int, batch_key: str) -> RequestHead:
    named = (row.request_id, row.model_id, row.priority, row.created_at, row.deadline_at)
    return RequestHead(*named, rows, batch_key)


def _sizes(connection: Connection, request_ids: Sequence[str]) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for first in range(0, len(request_ids), _IN_ONE_QUERY):
        some = payloads.c.request_id.in_(request_ids[first : first + _IN_ONE_QUERY])
        rows = connection.execute(select(payloads.c.request_id, payloads.c.rows, payloads.c.batch_key).where(some))
        found.update({request_id: (count, key) for request_id, count, key in rows})
    return found


def _in_flight(connection: Connection, row: Row[*tuple[Any, ...]]) -> InFlight:
    attempt = AttemptRecord(row.request_id, *row[7:])
    earlier = [each.outcome for each in history.attempts_of(connection, row.request_id) if each.n != attempt.n]
    return InFlight(_head(row, row.rows, row.batch_key), attempt, tuple(earlier))


def _begun(connection: Connection, request_id: str, replica_id: str, generation: int, at: float) -> JobStart:
    mine = requests.c.request_id == request_id
    joined = select(*_ACCEPTED, payloads.c.body).join(payloads, payloads.c.request_id == requests.c.request_id)
    *accepted, body = connection.execute(joined.where(mine)).one()
    tries = history.attempts_of(connection, request_id)
    attempt = AttemptRecord(request_id, len(tries) + 1, replica_id, generation, at)
    upsert_many(connection, attempts, [history.attempt_values(attempt)])
    return JobStart(_accepted(accepted), body, attempt, tries)


def _accepted(values: Sequence[Any]) -> RequestAccepted:
    row = RequestAccepted(*values)
    return row._replace(type=InferenceType(row.type), mode=Mode(row.mode))


def _end_open_tries(connection: Connection, row: RequestFinished) -> None:
    """One may have begun that nobody got to hear of."""
    mine = (attempts.c.request_id == row.accepted.request_id) & attempts.c.finished_at.is_(None)
    ended = {"finished_at": row.finished_at, "outcome": row.outcome.value}
    connection.execute(update(attempts).where(mine).values(ended))


def _tell(connection: Connection, end: JobEnd) -> bool:
    """Make the callback due; False where none was asked for."""
    request_id = end.finished.accepted.request_id
    asked = select(payloads.c.callback_url, payloads.c.callback_secret).where(payloads.c.request_id == request_id)
    row = connection.execute(asked).one_or_none()
    if row is None or row.callback_url is None:
        return False
    at, secret = end.finished.finished_at, row.callback_secret
    outbox.write(connection, request_id, row.callback_url, end.notice, at, secret)
    return True


def _claimed(connection: Connection, draft: JobDraft) -> str:
    accepted = draft.accepted
    if draft.idempotency is None:
        return accepted.request_id
    return idempotency.claim(connection, draft.idempotency, accepted.request_id, accepted.created_at)


def _payload_values(draft: JobDraft) -> tuple[object, ...]:
    """In the order of the columns."""
    callback = draft.callback
    told = (callback.url, callback.secret_name) if callback is not None else (None, None)
    return (draft.accepted.request_id, draft.rows, draft.batch_key, *told, draft.payload)


def _insert_many(connection: Connection, table: Table, rows: list[tuple[Any, ...]]) -> None:
    """Plain rows, in the order of the table's columns."""
    if rows:
        connection.exec_driver_sql(_insert(connection.dialect, table), rows)


@cache
def _insert(dialect: Dialect, table: Table) -> str:
    return str(insert(table).compile(dialect=dialect, column_keys=list(table.columns.keys())))
