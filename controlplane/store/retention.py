"""Decides which history may go, and deletes it a little at a time.

Only what ended is deleted: an open request stays whatever its age.
"""

from collections.abc import Callable

from sqlalchemy import ColumnElement, Connection, delete, exists, func, select, tuple_

from controlplane.store.batch_records import OVER
from controlplane.store.tables import batch_lines, batches, events, idempotency, outbox, requests

Sweep = Callable[[Connection], int]

# One sweep holds the writer about as long as one flush of the journal does.
_SWEEP_ROWS = 500


def sweeps(connection: Connection, before: float, keep: int, now: float) -> list[Sweep]:
    """The deletions that leave `keep` requests and events at most, none from before `before`, and no key that is over.

    Each is to be run until it returns 0.
    """
    planned = [_delete_requests((requests.c.created_at < before) & (requests.c.finished_at < before))]
    newest = requests.c.created_at.desc(), requests.c.request_id.desc()
    surplus = select(requests.c.created_at, requests.c.request_id).order_by(*newest).offset(keep).limit(1)
    if (first := connection.execute(surplus).one_or_none()) is not None:
        place = tuple_(requests.c.created_at, requests.c.request_id)
        planned.append(_delete_requests((place <= tuple_(*first)) & requests.c.finished_at.is_not(None)))
    planned.append(_delete_events(_first_event_kept(connection, before, keep)))
    return [*planned, _delete_callbacks(before), _delete_keys(now), _delete_batches(before)]


def _first_event_kept(connection: Connection, before: float, keep: int) -> int:
    newest_id = connection.scalar(select(func.max(events.c.id))) or 0
    fresh = select(events.c.id).where(events.c.at >= before).order_by(events.c.id).limit(1)
    surplus = select(events.c.id).order_by(events.c.id.desc()).offset(keep).limit(1)
    first_fresh = connection.scalar(fresh) or newest_id + 1
    return max(first_fresh, (connection.scalar(surplus) or 0) + 1)


def _delete_requests(which: ColumnElement[bool]) -> Sweep:
    order = requests.c.created_at, requests.c.request_id
    # The output of an open batch is not written yet.
    batched = exists().where(batch_lines.c.request_id == requests.c.request_id)
    some = select(requests.c.request_id).where(which, ~batched).order_by(*order).limit(_SWEEP_ROWS)
    statement = delete(requests).where(requests.c.request_id.in_(some))
    return lambda connection: connection.execute(statement).rowcount


def _delete_events(first_kept: int) -> Sweep:
    some = select(events.c.id).where(events.c.id < first_kept).order_by(events.c.id).limit(_SWEEP_ROWS)
    statement = delete(events).where(events.c.id.in_(some))
    return lambda connection: connection.execute(statement).rowcount


def _delete_callbacks(before: float) -> Sweep:
    some = select(outbox.c.request_id).where(outbox.c.ended_at < before).limit(_SWEEP_ROWS)
    statement = delete(outbox).where(outbox.c.request_id.in_(some))
    return lambda connection: connection.execute(statement).rowcount


def _delete_keys(now: float) -> Sweep:
    over = select(idempotency.c.client, idempotency.c.key).where(idempotency.c.expires_at <= now).limit(_SWEEP_ROWS)
    statement = delete(idempotency).where(tuple_(idempotency.c.client, idempotency.c.key).in_(over))
    return lambda connection: connection.execute(statement).rowcount


def _delete_batches(before: float) -> Sweep:
    over = batches.c.status.in_([status.value for status in OVER])
    some = select(batches.c.batch_id).where(over, batches.c.created_at < before).limit(_SWEEP_ROWS)
    statement = delete(batches).where(batches.c.batch_id.in_(some))
    return lambda connection: connection.execute(statement).rowcount
