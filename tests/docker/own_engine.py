"""A second Docker engine that tests may stop, kill and fill up: its own folders, socket, containerd and no network.

Its data lie in a file system of their own, in memory, which is small enough to be filled.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import psutil

from tests.docker import provision

PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.1
_DATA_MIB = 1024


class OwnEngine:
    """Folders are short, for containerd's sockets lie in them."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.socket = folder / "docker.sock"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str) -> None:
        """Returns when it answers."""
        folders = ("--data-root", self.data, "--exec-root", self._folder / "exec", "--pidfile", self._folder / "pid")
        # A containerd may serve both engines, so the names in it are apart; a network of its own, for starting without
        # a bridge would take away the other engine's.
        name = self._folder.name
        apart = ("--containerd-namespace", name, "--containerd-plugins-namespace", f"{name}-plugins")
        network = ("--bridge", "none", "--iptables=false", "--ip-masq=false", "--ip-forward=false")
        command = ("unshare", "--net", "dockerd", "--host", f"unix://{self.socket}", *folders, *apart, *network, *flags)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "DOCKER_TMPDIR": str(self._folder / "tmp")},
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(_PAUSE_SECONDS)

    @property
    def log(self) -> Path:
        return self._folder / "dockerd.log"

    def stop(self) -> None:
        """In order: containers end with it, unless it restores them."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE_SECONDS)
            self._process = None

    def kill(self) -> None:
        """SIGKILL; its containerd dies with it, which a next one that came at once would mistake for a living one."""
        assert self._process is not None
        children = psutil.Process(self._process.pid).children()
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)
        self._process = None
        _, left = psutil.wait_procs(children, PATIENCE_SECONDS)
        assert not left, left

    def load(self, image: str) -> None:
        """From the engine that has it."""
        theirs = ["docker", "--host", f"unix://{provision.SOCKET}", "save", image]
        mine = ["docker", "--host", f"unix://{self.socket}", "load", "--quiet"]
        with subprocess.Popen(theirs, stdout=subprocess.PIPE) as saving:
            subprocess.run(mine, stdin=saving.stdout, stdout=subprocess.DEVNULL, check=True)
        assert saving.returncode == 0

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=f"unix://{self.socket}", version="auto")

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """No byte is left where images, containers and logs lie."""
        ballast = self.data / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 20)) == 1 << 20:
                pass
            while file.write(bytes(512)):
                pass
        try:
            yield
        finally:
            ballast.unlink()

    def assert_nothing_left(self) -> None:
        """No container, no volume, and only the networks that every engine has."""
        with contextlib.closing(self.client()) as client:
            assert client.containers.list(all=True) == []
            assert client.volumes.list() == []
            assert {network.name for network in client.networks.list()} <= {"host", "none", "bridge"}

    def _answers(self) -> bool:
        command = ("docker", "--host", f"unix://{self.socket}", "version")
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


@contextlib.contextmanager
def own_engine() -> Iterator[OwnEngine]:
    """An engine with the product's image, which is gone afterwards with everything of its."""
    folder = Path(tempfile.mkdtemp(prefix="im-engine-", dir="/tmp"))
    engine = OwnEngine(folder)
    engine.data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DATA_MIB}m", "im-engine", engine.data], check=True)
    try:
        engine.start()
        engine.load(provision.CONTROL_PLANE)
        yield engine
        engine.assert_nothing_left()
    finally:
        engine.stop()
        for mount in reversed([Path(part.mountpoint) for part in psutil.disk_partitions(all=True)]):
            if mount.is_relative_to(folder):
                subprocess.run(["umount", mount], check=True)
        shutil.rmtree(folder)
