"""Worlds for the contract suites; every async test here runs under asyncio's own loop and under uvloop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.contract.desk import Desk
from tests.contract.runtime_worlds import FakeWorld, ProcessWorld, SimulatedWorld, World


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=["fake", "tiny", "simulated"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "fake":
        yield FakeWorld()
        return
    async with Desk(tmp_path / "desk") as desk:
        kind = ProcessWorld if request.param == "tiny" else SimulatedWorld
        processes = kind(tmp_path, desk)
        yield processes
        await processes.close()
