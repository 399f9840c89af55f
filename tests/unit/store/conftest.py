"""Stores on both databases, for each test its own: what holds for one must hold for the other."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from store_rows import ManualClock

from controlplane.store.database import Place
from controlplane.store.records import JournalLimits
from controlplane.store.store import Store
from tests.fakes.postgres_server import Server, postgres_server

# Rows reach the disk when a test says so: nothing here depends on how fast the machine is.
ON_DEMAND = JournalLimits(flush_seconds=3600.0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A SQLite file, for what is particular to one."""
    return tmp_path / "store.db"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A SQLite file, then a PostgreSQL database."""
    if request.param == "sqlite":
        yield request.getfixturevalue("path")
        return
    with request.getfixturevalue("server").database() as url:
        yield url


@pytest.fixture
async def store(place: Place, clock: ManualClock) -> AsyncIterator[Store]:
    store = await Store.open(place, holder="the test", clock=clock, limits=ON_DEMAND)
    yield store
    await store.close()


@pytest.fixture
async def file_store(path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    """For what only a file has."""
    store = await Store.open(path, holder="the test", clock=clock, limits=ON_DEMAND)
    yield store
    await store.close()
