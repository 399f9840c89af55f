"""The event log: written with the change it tells of, read by id."""

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select

from controlplane.store import tables
from controlplane.store.records import Event, EventDraft, EventRecord


def write(connection: Connection, events: Sequence[Event]) -> None:
    if events:
        connection.execute(insert(tables.events), [event._asdict() for event in events])


def write_draft(connection: Connection, draft: EventDraft | None, subject: str, at: float) -> None:
    """Write the event that goes with a change of `subject`, if there is one to tell."""
    if draft is not None:
        write(connection, [Event(at, draft.kind, subject, draft.detail)])


def read(connection: Connection, after_id: int, limit: int) -> list[EventRecord]:
    query = select(tables.events).where(tables.events.c.id > after_id).order_by(tables.events.c.id).limit(limit)
    return [EventRecord(**row._asdict()) for row in connection.execute(query)]
