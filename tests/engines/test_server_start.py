"""How the server starts, and how it says that it cannot."""

import socket
from pathlib import Path

import pytest

from tests.engines.pictures_sent import received
from tests.engines.server_process import PAINTER, REAL, ServerProcess, server


def run(*arguments: str) -> tuple[int, str]:
    """The exit status and the log of a start that fails."""
    process = ServerProcess(PAINTER, list(arguments))
    try:
        return process.wait(), "\n".join(process.log)
    finally:
        process.end()


def test_a_port(tmp_path: Path) -> None:
    """On a port, one is chosen and told; SIGTERM ends it with 0."""
    with server(PAINTER, tmp_path, "--port", "0", model_path=tmp_path) as process:
        with process.wait_until_ready().client() as client:
            assert received(client.post("/v1/images/generations", json={"prompt": "x"}).json()).size == (64, 64)
        process.terminate()
        assert process.wait() == 0


def test_a_socket_that_was_left_behind(tmp_path: Path) -> None:
    """The socket of a killed predecessor is in nobody's way."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "engine.sock"))
    with server(PAINTER, tmp_path, model_path=tmp_path) as process, process.wait_until_ready().client() as client:
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ('{"max_stepz": 1}', "max_stepz"),
        ('{"max_batch_size": 0}', "max_batch_size"),
        ('{"default_guidance": NaN}', "default_guidance"),
        ("{", "JSON"),
    ],
)
def test_wrong_options_are_named(options: str, told: str) -> None:
    """Options that cannot be used end the start with 2 and their name."""
    status, log = run("--port", "0", "--model", "x", "--options", options)
    assert status == 2
    assert told in log


def test_what_cannot_be_loaded_ends_the_start(tmp_path: Path) -> None:
    """The log names the cause, the status is 1, and no socket is left."""
    arguments = ("--uds", str(tmp_path / "engine.sock"), "--model", "x")
    for more in (
        ("--model-path", str(tmp_path / "missing")),
        ("--options", f'{{"upscaler": "{tmp_path / "missing"}"}}'),
    ):
        status, log = run(*arguments, *more)
        assert status == 1
        assert "cannot start: " in log
        assert "missing" in log
    assert list(tmp_path.iterdir()) == []


def test_an_address_in_use_ends_the_start(tmp_path: Path) -> None:
    """The log names the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, log = run("--port", port, "--model", "x")
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port}" in log


def test_a_signal_while_loading_ends_at_once(tmp_path: Path) -> None:
    """SIGTERM in the midst of a load ends the process with 0; its socket is gone."""
    process = ServerProcess(PAINTER, ["--uds", str(tmp_path / "s"), "--model", "x", "--model-path", "forever"])
    try:
        process.wait_for("loading forever")
        process.terminate()
        assert process.wait() == 0
    finally:
        process.end()
    assert list(tmp_path.iterdir()) == []


def test_usage_needs_nothing() -> None:
    """--help is answered by the launcher without a pipeline."""
    process = ServerProcess(REAL, ["--help"])
    assert process.wait() == 0
    assert "--model-path" in "\n".join(process.log)
