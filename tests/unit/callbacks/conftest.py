"""A real store and a real receiver, for each test its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from callback_desk import Clock, Desk

from controlplane.store.store import Store
from tests.fakes.callback_receiver import receiving


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    clock = Clock()
    store = await Store.open(tmp_path / "store.db", holder="the test", clock=clock)
    async with receiving() as here:
        yield Desk(store, clock, here)
    await store.close()
