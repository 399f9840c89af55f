"""The gate's own socket: who may open it is said on its command line, and by nobody else."""

import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE_SECONDS = 30.0


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_the_mode_it_was_given(tmp_path: Path, mode: int) -> None:
    """Also where an earlier gate has left one that is open to everybody."""
    path = tmp_path / "g.sock"
    with socket.socket(socket.AF_UNIX) as earlier:
        earlier.bind(str(path))
        path.chmod(0o666)
    left = path.stat().st_ino
    gate = subprocess.Popen([sys.executable, "-m", "controlplane.gate", "--listen", path, "--mode", f"{mode:o}"])
    try:
        _answers(path, left)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        gate.kill()
        gate.wait(PATIENCE_SECONDS)


def _answers(path: Path, left: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"nobody listens instead of {left}")
