"""A store on a real file, for each test its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from store_rows import ManualClock

from controlplane.store.records import JournalLimits
from controlplane.store.store import Store

# Rows reach the disk when a test says so: nothing here depends on how fast the machine is.
ON_DEMAND = JournalLimits(flush_seconds=3600.0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    store = await Store.open(path, holder="the test", clock=clock, limits=ON_DEMAND)
    yield store
    await store.close()
