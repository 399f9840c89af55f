"""The schema: migrations and tables agree, and foreign or newer files are left alone."""

import re
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, delete, func, insert, select
from store_rows import ManualClock, accepted

from controlplane.errors import StoreFailure
from controlplane.store import tables
from controlplane.store.database import Database
from controlplane.store.errors import RowRefused, mapped
from controlplane.store.records import Mode
from controlplane.store.store import Store


def _schema(path: Path) -> dict[str, str]:
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'alembic%'"
    with sqlite3.connect(path) as connection:
        rows = connection.execute(query).fetchall()
    connection.close()
    return {name: re.sub(r"\s+", "", sql) for name, sql in rows}


def test_migrations_arrive_at_the_tables(tmp_path: Path) -> None:
    """A migrated database has, to the letter, the schema that the tables would create."""
    Database.open(tmp_path / "migrated.db").close()
    engine = create_engine(f"sqlite:///{tmp_path / 'created.db'}")
    tables.metadata.create_all(engine)
    engine.dispose()
    assert _schema(tmp_path / "migrated.db") == _schema(tmp_path / "created.db")


def test_autogenerate_finds_nothing_to_do(path: Path) -> None:
    """Alembic's own comparison, which also knows other databases, sees no difference."""
    database = Database.open(path)
    with database.reading.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    database.close()


async def test_newer_schema_is_refused(path: Path, clock: ManualClock) -> None:
    """A store that a newer version wrote is not touched, and the message says what to do."""
    await (await Store.open(path, holder="new", clock=clock)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreFailure, match=r"schema 9999 is newer than this version's \d{4}; install the version"):
        await Store.open(path, holder="old", clock=clock)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    connection.close()


async def test_another_programs_database_is_refused(path: Path, clock: ManualClock) -> None:
    """A file with other tables in it is not turned into a store."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    with pytest.raises(StoreFailure, match="another program's database"):
        await Store.open(path, holder="me", clock=clock)
    assert list(_schema(path)) == ["recipes"]


async def test_file_that_is_no_database_is_refused(path: Path, clock: ManualClock) -> None:
    """Any other file gives a clear error, keeps its bytes, and gives the lock back."""
    path.write_bytes(b"not a database " * 100)
    for _ in range(2):
        with pytest.raises(StoreFailure, match=r"cannot open the store .*store\.db: file is not a database"):
            await Store.open(path, holder="me", clock=clock)
    assert path.read_bytes() == b"not a database " * 100


async def test_missing_folder_is_made_and_a_blocked_one_refused(path: Path, clock: ManualClock) -> None:
    """The store makes its folder; where it cannot, the error names the path."""
    deep = path.parent / "a" / "b" / "store.db"
    await (await Store.open(deep, holder="me", clock=clock)).close()
    assert deep.exists()
    (path.parent / "file").write_text("")
    with pytest.raises(StoreFailure, match="cannot open the store's lock"):
        await Store.open(path.parent / "file" / "store.db", holder="me", clock=clock)


def test_commits_are_synced_and_foreign_keys_hold(path: Path) -> None:
    """Every connection runs in WAL mode, syncs each commit, and enforces references."""
    database = Database.open(path)
    for engine in (database.writing, database.reading):
        with engine.begin() as connection:
            found = [connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous")]
            assert found == ["wal", 2]
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    with pytest.raises(RowRefused, match="FOREIGN KEY"), mapped("reserve"), database.writing.begin() as connection:
        connection.execute(insert(tables.reservations), {"replica_id": "nobody", "device_id": "host", "mib": 1})
    database.close()


@pytest.mark.parametrize(("column", "value"), [("status", "done"), ("outcome", "fine"), ("priority", 101)])
def test_values_outside_the_glossary_are_refused(path: Path, column: str, value: object) -> None:
    """The database itself keeps words and ranges, whoever writes."""
    database = Database.open(path)
    row = {**accepted("r")._asdict(), "status": "pending", "attempts": 0, "type": "text2text", "mode": "sync"}
    with database.writing.begin() as connection:
        connection.execute(insert(tables.requests), row)
        connection.execute(delete(tables.requests))
    with pytest.raises(RowRefused, match="CHECK"), mapped("write"), database.writing.begin() as connection:
        connection.execute(insert(tables.requests), {**row, column: value})
    database.close()


def test_the_queue_is_read_from_its_index_alone(path: Path) -> None:
    """Recovery's questions (how many wait, which are first) never touch the rows with the payload."""
    database = Database.open(path)
    requests = tables.requests.c
    queued = (requests.mode == Mode.ASYNC.value) & (requests.status == "pending") & requests.finished_at.is_(None)
    counts = (
        select(requests.model_id, requests.priority, func.count())
        .where(queued)
        .group_by(requests.model_id, requests.priority)
    )
    heads = (
        select(requests.request_id, requests.model_id, requests.priority, requests.created_at, requests.deadline_at)
        .where(queued, requests.priority == 50)
        .order_by(requests.created_at)
    )
    with database.reading.begin() as connection:
        for query in (counts, heads):
            text = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
            plan = " ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
            assert "USING COVERING INDEX ix_requests_open" in plan
    assert "ORDER BY" not in plan
    database.close()


def test_the_reference_names_every_column() -> None:
    """docs/store.md has a paragraph for each table that names all of its columns."""
    reference = Path(__file__).parents[3] / "docs" / "store.md"
    paragraphs = re.split(r"^\*\*(\w+)\*\*", reference.read_text(), flags=re.MULTILINE)
    named = {
        table: set(re.findall(r"`(\w+)`", text)) for table, text in zip(paragraphs[1::2], paragraphs[2::2], strict=True)
    }
    missing = {
        f"{table.name}.{column.name}"
        for table in tables.metadata.sorted_tables
        for column in table.columns
        if column.name not in named.get(table.name, set())
    }
    assert not missing
