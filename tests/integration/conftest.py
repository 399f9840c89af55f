"""A running service per test, made by a factory, and the proof at the end that it left nothing behind."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from service import Serve, Service


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """`await serve(model(...), scheduling={...})` gives a service that listens, on a state of its own."""
    services: list[Service] = []

    async def start(*models: dict[str, Any], **keys: Any) -> Service:
        folder = tmp_path / f"s{len(services)}"
        folder.mkdir()
        service = Service(folder)
        services.append(service)
        service.write(*models, **keys)
        await service.start()
        return service

    yield start
    for service in services:
        await service.end()
