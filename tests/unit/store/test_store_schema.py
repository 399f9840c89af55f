"""The schema: migrations and tables agree, and foreign or newer files are left alone."""

import re
import sqlite3
from dataclasses import asdict
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, delete, func, insert, inspect, select
from store_rows import ManualClock, accepted, engine_of

from controlplane.errors import StoreFailure
from controlplane.store import tables
from controlplane.store.database import Place, opened
from controlplane.store.errors import RowRefused, mapped
from controlplane.store.migration import SCRIPTS
from controlplane.store.records import LoadTier, LoadTime, Mode
from controlplane.store.store import Store

LEARNT = LoadTime("llm", "abc", LoadTier.COLD, samples=3, mean_seconds=4.5, peak_mib=700, last_at=5.5)


def _run(place: Place, statement: str) -> list[tuple[object, ...]]:
    """As a foreign tool; the rows, where there are any."""
    engine = engine_of(place)
    with engine.begin() as connection:
        result = connection.exec_driver_sql(statement)
        rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


def _schema(path: Path) -> dict[str, str]:
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'alembic%'"
    with sqlite3.connect(path) as connection:
        rows = connection.execute(query).fetchall()
    connection.close()
    return {name: re.sub(r"\s+", "", sql) for name, sql in rows}


async def test_migrations_arrive_at_the_tables(tmp_path: Path) -> None:
    """A migrated database has, to the letter, the schema that the tables would create."""
    (await opened(tmp_path / "migrated.db", "the test", 0.0, 0.0)).close()
    engine = create_engine(f"sqlite:///{tmp_path / 'created.db'}")
    tables.metadata.create_all(engine)
    engine.dispose()
    assert _schema(tmp_path / "migrated.db") == _schema(tmp_path / "created.db")


async def test_autogenerate_finds_nothing_to_do(place: Place) -> None:
    """Alembic's own comparison sees no difference, on either database."""
    database = await opened(place, "the test", 0.0, 0.0)
    with database.reading.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    database.close()


async def test_newer_schema_is_refused(place: Place, clock: ManualClock) -> None:
    """A store that a newer version wrote is not touched, and the message says what to do."""
    await (await Store.open(place, holder="new", clock=clock)).close()
    _run(place, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreFailure, match=r"schema 9999 is newer than this version's \d{4}; install the version"):
        await Store.open(place, holder="old", clock=clock)
    assert _run(place, "SELECT version_num FROM alembic_version") == [("9999",)]


async def test_another_programs_database_is_refused(place: Place, clock: ManualClock) -> None:
    """A database with other tables in it is not turned into a store."""
    _run(place, "CREATE TABLE recipes (name TEXT)")
    for _ in range(2):
        with pytest.raises(StoreFailure, match="another program's database"):
            await Store.open(place, holder="me", clock=clock)
    engine = engine_of(place)
    assert inspect(engine).get_table_names() == ["recipes"]
    engine.dispose()


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


async def test_commits_are_synced_and_foreign_keys_hold(path: Path) -> None:
    """Every connection runs in WAL mode, syncs each commit, and enforces references."""
    database = await opened(path, "the test", 0.0, 0.0)
    for engine in (database.writing, database.reading):
        with engine.begin() as connection:
            found = [connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous")]
            assert found == ["wal", 2]
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    with pytest.raises(RowRefused, match="FOREIGN KEY"), mapped("reserve"), database.writing.begin() as connection:
        connection.execute(insert(tables.reservations), {"replica_id": "nobody", "device_id": "host", "mib": 1})
    database.close()


@pytest.mark.parametrize(("column", "value"), [("status", "done"), ("outcome", "fine"), ("priority", 101)])
async def test_values_outside_the_glossary_are_refused(place: Place, column: str, value: object) -> None:
    """The database itself keeps words and ranges, whoever writes."""
    database = await opened(place, "the test", 0.0, 0.0)
    row = {**accepted("r")._asdict(), "status": "pending", "attempts": 0, "type": "text2text", "mode": "sync"}
    with database.writing.begin() as connection:
        connection.execute(insert(tables.requests), row)
        connection.execute(delete(tables.requests))
    with (
        pytest.raises(RowRefused, match=r"(?i)check constraint"),
        mapped("write"),
        database.writing.begin() as connection,
    ):
        connection.execute(insert(tables.requests), {**row, column: value})
    database.close()


async def test_the_queue_is_read_from_its_index_alone(path: Path) -> None:
    """Recovery's questions (how many wait, which are first) never touch the rows with the payload."""
    database = await opened(path, "the test", 0.0, 0.0)
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


_VERSIONS = [script.revision for script in ScriptDirectory(str(SCRIPTS)).walk_revisions()]


@pytest.mark.parametrize("revision", _VERSIONS)
async def test_every_earlier_schema_is_brought_up_to_date(place: Place, clock: ManualClock, revision: str) -> None:
    """What an earlier version wrote is there after the upgrade, and the schema is that of a new store."""
    engine = engine_of(place)
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.execute(insert(tables.load_times), asdict(LEARNT) | {"tier": LEARNT.tier.value})
    engine.dispose()
    store = await Store.open(place, holder="new", clock=clock)
    assert await store.load_times() == [LEARNT]
    found = await store._read("compare", lambda c: compare_metadata(MigrationContext.configure(c), tables.metadata))
    assert found == []
    await store.close()
