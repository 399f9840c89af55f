"""A real PostgreSQL for the tests: Debian's package, on a socket in a temporary folder, as a user without rights.

Where the package is missing it is installed, which takes root.
"""

import fcntl
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

_PACKAGE = "postgresql"
_USER = "postgres"
_START_SECONDS = 120.0
_SETTINGS = {
    "listen_addresses": "",
    # What is proved here is what the store does, not what the server's disk does.
    "fsync": "off",
    "max_connections": "100",
    "shared_buffers": "16MB",
}


class Server:
    """One server; every test gets a database of its own."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]") -> None:
        self._folder = folder
        self._process = process
        self._made = 0

    def url(self, database: str) -> str:
        return f"postgresql://{_USER}@/{database}?host={self._folder}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """A fresh database's address; afterwards it is dropped, with whoever still speaks to it."""
        self._made += 1
        name = f"test{self._made}"
        self._do(f'CREATE DATABASE "{name}"')
        try:
            yield self.url(name)
        finally:
            self._do(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _do(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def await_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self._do("SELECT 1")
            except psycopg.OperationalError as exc:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"PostgreSQL did not start: {exc}") from exc
                time.sleep(0.05)
            else:
                return


@contextmanager
def postgres_server() -> Iterator[Server]:
    """A server for as long as this lasts; nothing of it is left behind."""
    programs = _programs() or _installed()
    folder = Path(tempfile.mkdtemp(prefix="im-postgres-"))
    try:
        user = _unprivileged(folder)
        made = ["initdb", "--pgdata", "data", "--username", _USER, "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        _run([str(programs / made[0]), *made[1:], "--auth", "trust"], folder, user)
        options = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        command = [str(programs / "postgres"), "-D", "data", "-k", str(folder), *options]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, user=user, stdout=log, stderr=log, env=_environment())
        try:
            server = Server(folder, process)
            server.await_ready()
            yield server
        finally:
            # SIGQUIT: at once, and its children with it.
            process.send_signal(3)
            process.wait(60)
    finally:
        shutil.rmtree(folder)


def _programs() -> Path | None:
    """The newest server that is installed, where Debian puts it or on the path."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    if found:
        return max(found, key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0)
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _installed() -> Path:
    if os.geteuid() != 0:
        sys.exit(f"the store's tests need PostgreSQL: install Debian's package {_PACKAGE}")
    # Test runs side by side find it missing at the same moment.
    with (Path(tempfile.gettempdir()) / "im-postgres-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _programs() is None:
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", _PACKAGE]):
                subprocess.run(["apt-get", *command], check=True, stdout=subprocess.DEVNULL, env=environment)
    programs = _programs()
    assert programs is not None
    return programs


def _unprivileged(folder: Path) -> int | None:
    """The server refuses to be run by root; the package has a user for it."""
    if os.geteuid() != 0:
        return None
    user = pwd.getpwnam(_USER)
    os.chown(folder, user.pw_uid, user.pw_gid)
    return user.pw_uid


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _run(command: list[str], folder: Path, user: int | None) -> None:
    done = subprocess.run(command, check=False, cwd=folder, user=user, capture_output=True, env=_environment())
    assert done.returncode == 0, done.stderr.decode()
