"""Real processes for the process runtime's tests; every async test runs under asyncio's own loop and under uvloop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from controlplane.runtime.process_log import LogLimits
from tests.contract.desk import Desk
from tests.contract.runtime_worlds import ProcessWorld

SMALL_LOGS = LogLimits(max_bytes=256 * 1024, keep=2, check_seconds=0.01)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[ProcessWorld]:
    async with Desk(tmp_path / "desk") as desk:
        processes = ProcessWorld(tmp_path, desk, SMALL_LOGS)
        yield processes
        await processes.close()
