"""What is wrong before the service serves: exit status 2, a remedy, and nothing started."""

import asyncio
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from service import INFERCTL, Service, model


def _refused(folder: Path, *arguments: str, **keys: Any) -> str:
    """Standard error of a service that must not start, after the proof that nothing was."""
    service = Service(folder)
    service.write(model("a", min_replicas=1), **keys)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("INFERCTL_")}
    command = [INFERCTL, "serve", "--config", service.config, *arguments]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environ)
    assert ended.returncode == 2, ended
    assert "Traceback" not in ended.stderr
    service.assert_nothing_left()
    assert not service.state_dir.exists()
    return ended.stderr


async def test_a_port_that_is_taken_is_told_with_the_remedy(tmp_path: Path) -> None:
    """Exit 2 before anything is made or started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        told = await asyncio.to_thread(_refused, tmp_path, "--port", str(port))

    assert f"cannot listen on 127.0.0.1:{port}" in told
    assert "--port" in told


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        pytest.param({"servr": {}}, ("servr", "server"), id="an unknown key"),
        pytest.param({"server": {"port": "8000"}}, ("server.port",), id="a number in quotes"),
        pytest.param({"server": {"host": "0.0.0.0"}}, ("0.0.0.0", "api_keys"), id="open to others without a key"),
        pytest.param({"retention": {"events_days": 0}}, ("retention.events_days",), id="out of range"),
    ],
)
async def test_a_wrong_configuration_is_told_and_nothing_starts(
    tmp_path: Path, keys: dict[str, Any], words: tuple[str, ...]
) -> None:
    """Exit 2, the place and what to write instead."""
    told = await asyncio.to_thread(lambda: _refused(tmp_path, "--port", "0", **keys))

    for word in words:
        assert word in told
