"""INSERT that overwrites the row it meets, in the dialect of the connection."""

from collections.abc import Callable, Sequence
from functools import cache

from sqlalchemy import Connection, Dialect, Table
from sqlalchemy.dialects import postgresql, sqlite

# Both dialects have the same clauses on INSERT; SQLAlchemy has no common base that says so.
_Insert = sqlite.Insert | postgresql.Insert
_INSERTS: dict[str, Callable[[Table], _Insert]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}

Value = str | int | float | bool | None


def upsert(connection: Connection, table: Table) -> _Insert:
    """The statement for `table`, keyed by its primary key; give every column when executing it."""
    return _overwriting(connection.dialect.name, table)


def upsert_many(connection: Connection, table: Table, rows: Sequence[tuple[Value, ...]]) -> None:
    """Write plain `rows`, whole and in the order of the table's columns, without a look at each value.

    For the journal: SQLAlchemy's work on parameters costs twice what SQLite's insert does.
    """
    connection.exec_driver_sql(_compiled(connection.dialect, table), list(rows))


def insert_absent(connection: Connection, table: Table) -> _Insert:
    """The statement that leaves a row with the same key alone; its rowcount tells."""
    statement = _INSERTS[connection.dialect.name](table).on_conflict_do_nothing()
    # Rows inserted are counted on some databases only when asked for.
    return statement.execution_options(preserve_rowcount=True)


@cache
def _overwriting(dialect: str, table: Table) -> _Insert:
    statement = _INSERTS[dialect](table)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key},
    )


@cache
def _compiled(dialect: Dialect, table: Table) -> str:
    return str(_overwriting(dialect.name, table).compile(dialect=dialect, column_keys=list(table.columns.keys())))
