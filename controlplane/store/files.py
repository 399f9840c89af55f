"""The rows of files: written, listed, removed unless a batch still reads them."""

from collections.abc import Sequence
from dataclasses import asdict, fields

from sqlalchemy import ColumnElement, Connection, Row, Table, delete, exists, insert, select, tuple_

from controlplane.store.batch_records import OVER, FileRecord, Purpose
from controlplane.store.tables import batches, files

_COLUMNS = [files.c[each.name] for each in fields(FileRecord)]
_AT_ONCE = 500


def write(connection: Connection, row: FileRecord) -> None:
    connection.execute(insert(files), asdict(row))


def one(connection: Connection, file_id: str) -> FileRecord | None:
    row = connection.execute(select(*_COLUMNS).where(files.c.file_id == file_id)).one_or_none()
    return None if row is None else _record(row)


def page(
    connection: Connection, wanted: Sequence[ColumnElement[bool]], after: str | None, limit: int, *, newest: bool
) -> list[FileRecord]:
    """Up to `limit` files that match, by age, behind the file `after`."""
    place = files.c.created_at, files.c.file_id
    query = select(*_COLUMNS).where(*wanted)
    if after is not None:
        query = query.where(behind(files, "file_id", after, newest=newest))
    order = [column.desc() for column in place] if newest else list(place)
    return [_record(row) for row in connection.execute(query.order_by(*order).limit(limit))]


def behind(table: Table, key: str, after: str, *, newest: bool) -> ColumnElement[bool]:
    """Older (or newer) than the row of that id; nothing is behind one that is not there."""
    place = tuple_(table.c.created_at, table.c[key])
    other = table.alias()
    mark = select(other.c.created_at, other.c[key]).where(other.c[key] == after).scalar_subquery()
    return place < mark if newest else place > mark


def remove(connection: Connection, file_id: str) -> bool:
    """False when an open batch still needs it."""
    statement = delete(files).where(files.c.file_id == file_id, ~_needed())
    return connection.execute(statement).rowcount > 0


def expired(connection: Connection, now: float) -> list[str]:
    """Remove those whose time is over and that nobody needs; a few at a time."""
    over = select(files.c.file_id).where(files.c.expires_at <= now, ~_needed()).limit(_AT_ONCE)
    found = list(connection.scalars(over))
    connection.execute(delete(files).where(files.c.file_id.in_(found)))
    return found


def known(connection: Connection, file_ids: Sequence[str]) -> set[str]:
    """Those of these that there are."""
    found: set[str] = set()
    for first in range(0, len(file_ids), _AT_ONCE):
        some = files.c.file_id.in_(file_ids[first : first + _AT_ONCE])
        found.update(connection.scalars(select(files.c.file_id).where(some)))
    return found


def _needed() -> ColumnElement[bool]:
    is_open = batches.c.status.not_in([status.value for status in OVER])
    return exists().where(batches.c.input_file_id == files.c.file_id, is_open)


def _record(row: Row[tuple[object, ...]]) -> FileRecord:
    return FileRecord(**{**row._asdict(), "purpose": Purpose(row.purpose)})
