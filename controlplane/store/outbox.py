"""The outbox: callbacks written with the outcome that they tell of, found when due, moved on by compare-and-set."""

from collections.abc import Sequence
from dataclasses import fields
from urllib.parse import urlsplit

from sqlalchemy import Connection, Row, and_, insert, select, tuple_, update

from controlplane.store import events, history
from controlplane.store.deliveries import (
    Delivery,
    DeliveryPage,
    DeliveryRecord,
    DeliveryState,
    DeliveryTry,
    DueHead,
    Hosts,
)
from controlplane.store.records import Event
from controlplane.store.tables import outbox

_PORTS = {"http": 80, "https": 443}
_RECORD_COLUMNS = [outbox.c[field.name] for field in fields(DeliveryRecord)]
_TO_DELIVER = [outbox.c[field.name] for field in fields(Delivery)]


def write(
    connection: Connection, request_id: str, url: str, body: bytes, at: float, secret_name: str | None = None
) -> None:
    """Make a callback due at once. Belongs into the transaction of the outcome that `body` tells of."""
    row = {
        "request_id": request_id,
        "url": url,
        "host": host_of(url),
        "secret_name": secret_name,
        "body": body,
        "state": DeliveryState.PENDING.value,
        "tries": 0,
        "created_at": at,
        "due_at": at,
    }
    connection.execute(insert(outbox), row)


def host_of(url: str) -> str:
    """host:port, by which receivers are told apart; empty for what is no address."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return ""
    return f"{parts.hostname or ''}:{port}"


def due(connection: Connection, now: float, hosts: Hosts, under_way: frozenset[str], limit: int) -> Sequence[DueHead]:
    """Up to `limit` deliveries to `hosts` whose time has come, longest due first, less those `under_way`."""
    wanted = [outbox.c.due_at <= now]
    if hosts.among is not None:
        wanted.append(outbox.c.host.in_(hosts.among))
    if hosts.without:
        wanted.append(outbox.c.host.not_in(hosts.without))
    if under_way:
        wanted.append(outbox.c.request_id.not_in(under_way))
    order = outbox.c.due_at, outbox.c.host, outbox.c.request_id
    query = select(outbox.c.request_id, outbox.c.host).where(and_(*wanted)).order_by(*order).limit(limit)
    return [DueHead(*row) for row in connection.execute(query)]


def load(connection: Connection, request_id: str) -> Delivery | None:
    """What to deliver; None when it has ended meanwhile."""
    query = select(*_TO_DELIVER).where(outbox.c.request_id == request_id, outbox.c.due_at.is_not(None))
    row = connection.execute(query).one_or_none()
    return None if row is None else Delivery(**row._asdict())


def next_due_at(connection: Connection, after: float) -> float | None:
    """When the first delivery after `after` is due."""
    first = select(outbox.c.due_at).where(outbox.c.due_at > after).order_by(outbox.c.due_at).limit(1)
    return connection.scalar(first)


def record(connection: Connection, ended: DeliveryTry) -> bool:
    """Write how a try ended, and the event that tells of a callback given up; False when the row has moved on."""
    row = outbox.c
    matching = (row.request_id == ended.request_id) & (row.tries == ended.tries_before) & row.due_at.is_not(None)
    values: dict[str, object] = {
        "state": ended.state.value,
        "tries": ended.tries_before + 1,
        "due_at": ended.due_at,
        "ended_at": None if ended.due_at is not None else ended.at,
        "last_status": ended.status,
        "last_error": ended.error,
    }
    if ended.state is DeliveryState.DELIVERED:
        # Nobody needs it again; results may be large.
        values["body"] = b""
    if connection.execute(update(outbox).where(matching).values(values)).rowcount == 0:
        return False
    if ended.state is DeliveryState.DEAD:
        detail = {"tries": ended.tries_before + 1, "status": ended.status, "reason": ended.error}
        events.write(connection, [Event(ended.at, "callback.dead", ended.request_id, detail)])
    return True


def resend(connection: Connection, request_id: str, at: float) -> DeliveryRecord | None:
    """Make a dead delivery due again, as if it had never been tried; what else it is stays. None: there is no such."""
    dead = (outbox.c.request_id == request_id) & (outbox.c.state == DeliveryState.DEAD.value)
    again = {"state": DeliveryState.PENDING.value, "tries": 0, "due_at": at, "ended_at": None}
    if connection.execute(update(outbox).where(dead).values(again)).rowcount:
        events.write(connection, [Event(at, "callback.resent", request_id, {})])
    return one(connection, request_id)


def one(connection: Connection, request_id: str) -> DeliveryRecord | None:
    row = connection.execute(select(*_RECORD_COLUMNS).where(outbox.c.request_id == request_id)).one_or_none()
    return None if row is None else _record(row)


def page(connection: Connection, state: DeliveryState, position: history.Position | None, limit: int) -> DeliveryPage:
    """Up to `limit` deliveries in `state`, newest first, after `position`."""
    place = outbox.c.created_at, outbox.c.request_id
    query = select(*_RECORD_COLUMNS).where(outbox.c.state == state.value)
    if position is not None:
        query = query.where(tuple_(*place) < tuple_(*position))
    query = query.order_by(*(column.desc() for column in place)).limit(limit + 1)
    found = [_record(row) for row in connection.execute(query)]
    last = found[limit - 1] if len(found) > limit else None
    cursor = history.encode_cursor(last.created_at, last.request_id) if last else None
    return DeliveryPage(tuple(found[:limit]), cursor)


def _record(row: Row[tuple[object, ...]]) -> DeliveryRecord:
    return DeliveryRecord(**{**row._asdict(), "state": DeliveryState(row.state)})
