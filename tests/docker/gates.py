"""The gate before a Docker engine as a process of its own, which tests may end and start again."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.02


# Workers that run side by side have one each.
NETWORK = f"inference-manager-test-{os.getpid()}"


class Gate:
    """Lets through the product's images, those of a registry on this host, NETWORK, and mounts below `folder`."""

    def __init__(self, engine: Path, listen: Path, folder: Path, *more: str) -> None:
        """`more` are further arguments that allow something."""
        self.listen = listen
        self._command = (
            *(sys.executable, "-m", "controlplane.gate", "--docker", str(engine), "--listen", str(listen)),
            *("--folder", str(folder), "--image", "inference-manager:*", "--image", "127.0.0.1:*"),
            *("--network", NETWORK, *more),
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix://{self.listen}"

    def start(self) -> None:
        """Returns when it answers."""
        self._process = subprocess.Popen(self._command)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, "the gate ended"
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.listen))
                return
            time.sleep(_PAUSE_SECONDS)
        raise AssertionError("the gate does not answer")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_SECONDS)
            self._process = None
        self.listen.unlink(missing_ok=True)
