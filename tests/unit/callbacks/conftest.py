"""A real store and a real receiver, for each test its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from callback_desk import Clock, Desk
from callback_receiver import receiving

from controlplane.store.store import Store


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    clock = Clock()
    store = await Store.open(tmp_path / "store.db", holder="the test", clock=clock)
    async with receiving() as here:
        yield Desk(store, clock, here)
    await store.close()
