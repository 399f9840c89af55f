"""Turns an order into a running main process: tokens, environment, log, working directory, record.

All or nothing: whatever fails, no process and no file but the log is left.
Blocking, so callers use a thread. Does not look whether the replica runs already.
"""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adapters.endpoint import Endpoint
from controlplane.errors import RuntimeFailure
from controlplane.ports import ReplicaOrder
from controlplane.runtime.environments import extras_folder
from controlplane.runtime.process_files import Leader, ReplicaFiles
from controlplane.runtime.process_label import label_of, to_environment
from controlplane.runtime.process_log import ReplicaLog
from controlplane.runtime.process_tree import start_time, wait_until_it_shows_its_label

_TOKEN = re.compile(r"\{(?:(python|uds|host|port)|extras:([a-z0-9][a-z0-9.-]*))\}")


class Interpreters(Protocol):
    """Where engines' python interpreters come from."""

    async def python(self, environment: str | None, progress: Callable[[str], None]) -> Path:
        """The environment's interpreter, made on first use; None is the control plane's own.

        Raises RuntimeFailure.
        """
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where one replica runs: its files, log, interpreter and address."""

    files: ReplicaFiles
    log: ReplicaLog
    python: Path
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Launched:
    """A main process that runs; whoever gets it owns `pidfd`."""

    pid: int
    pidfd: int


def launch(order: ReplicaOrder, place: Place, store_id: str, base_env: Mapping[str, str]) -> Launched:
    """Start the main process in a session of its own. Raises RuntimeFailure or OSError."""
    fill = _filler(place)
    # Engines leave files in their temporary folder; one of their own goes when they go.
    env = {**base_env, "TMPDIR": str(place.files.temporary)}
    env |= {name: fill(value) for name, value in order.launch.env.items()}
    env |= to_environment(label_of(order, place.endpoint), store_id)
    place.files.prepare()
    with _cleared_on_failure(place.files):
        pid = _spawn([fill(argument) for argument in order.launch.argv], env, place)
        with _killed_on_failure(pid):
            started = start_time(pid)
            assert started is not None, "an unreaped child has an entry in /proc"
            wait_until_it_shows_its_label(pid)
            place.files.record(Leader(pid, started, order.generation))
            return Launched(pid, os.pidfd_open(pid))


def _spawn(argv: list[str], env: Mapping[str, str], place: Place) -> int:
    log = place.log.open_new_run()
    try:
        child = subprocess.Popen(
            argv,
            env=env,
            cwd=place.files.work_dir,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    except ValueError as exc:
        raise RuntimeFailure(f"its command line or environment is not valid: {exc}") from exc
    finally:
        os.close(log)
    # It is waited for through its pidfd, as adopted processes are; told so, Popen neither waits nor warns.
    child.returncode = 0
    return child.pid


def _filler(place: Place) -> Callable[[str], str]:
    """Replaces the tokens in one text; other braces stay as they are."""
    values = {"python": str(place.python), "uds": place.endpoint.uds, "host": place.endpoint.host}
    values["port"] = None if place.endpoint.port is None else str(place.endpoint.port)

    def value(match: re.Match[str]) -> str:
        if match[2]:  # an operator's own interpreter has none, and brings what it needs itself
            return str(extras_folder(place.python, match[2]))
        found = values[match[1]]
        if found is None:
            raise RuntimeFailure(f"its launch uses {match[0]}, but it listens on {place.endpoint}")
        return found

    return lambda text: _TOKEN.sub(value, text)


@contextlib.contextmanager
def _cleared_on_failure(files: ReplicaFiles) -> Iterator[None]:
    try:
        yield
    except BaseException:
        files.clear()
        raise


@contextlib.contextmanager
def _killed_on_failure(pid: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
