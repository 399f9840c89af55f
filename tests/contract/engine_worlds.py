"""Worlds for the adapter contract: real engine processes, started from what an adapter's `launch` returned."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from adapters.base import EngineAdapter, Launch, ModelLaunch
from adapters.endpoint import Endpoint

_READY = ("Application startup complete", "diffusers_engine: Serving")
_START_SECONDS = 240
_LIBC = ctypes.CDLL(None)  # loaded here, for nothing may be loaded between fork and exec
_PR_SET_PDEATHSIG = 1
_ANSWER_SECONDS = 30


class EngineProcess:
    """One run of a launch, in a process group of its own, with its log as it comes."""

    def __init__(self, launch: Launch, python: Path, folder: Path) -> None:
        self.endpoint = Endpoint.unix(str(folder / "e.sock"))
        self.log: list[str] = []
        self._grace_seconds = launch.stop_grace_seconds
        self._settled = threading.Event()  # ready, or ended
        tokens = {"python": str(python), "uds": str(folder / "e.sock"), "extras": str(python.parent.parent / "extras")}
        own = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
        self._process = subprocess.Popen(
            [_fill(word, tokens) for word in launch.argv],
            env={**own, "TMPDIR": str(folder), **{name: _fill(value, tokens) for name, value in launch.env.items()}},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_follow_parent,  # noqa: PLW1509
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_started(self) -> None:
        """Until its log says that it is up; fails with the log when it ends before."""
        assert self._settled.wait(_START_SECONDS), "it did not start:\n" + "\n".join(self.log)
        assert self._process.poll() is None, "it ended:\n" + "\n".join(self.log)

    def wait_ended(self) -> int:
        """Until it has ended by itself; its exit status."""
        status = self._process.wait(_START_SECONDS)
        self._reader.join()
        return status

    def kill_core(self) -> None:
        """SIGKILL of vLLM's engine core, which is a child of the process that answers HTTP."""
        members = [self._main(), *self._main().children(recursive=True)]
        core = next(process for process in members if "EngineCore" in " ".join(process.cmdline()))
        core.kill()

    def memory_mib(self) -> float:
        """PSS of the whole tree, as the service measures it."""
        tree = [self._main(), *self._main().children(recursive=True)]
        return sum(process.memory_full_info().pss for process in tree) / 1024 / 1024

    def stop(self) -> None:
        """SIGTERM; the whole group must be gone within the launch's grace."""
        try:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(self._grace_seconds)
        finally:
            self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _main(self) -> psutil.Process:
        return psutil.Process(self._process.pid)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line.decode("utf-8", "replace").rstrip("\n"))
            if any(mark in self.log[-1] for mark in _READY):
                self._settled.set()
        self._settled.set()


def _follow_parent() -> None:
    """Get SIGTERM when the test run dies without a word, so that no engine outlives it."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _fill(word: str, tokens: dict[str, str]) -> str:
    return re.sub(r"\{(python|uds|extras)(?::([a-z0-9.-]+))?\}", lambda found: _value(found, tokens), word)


def _value(found: re.Match[str], tokens: dict[str, str]) -> str:
    return tokens[found[1]] + (f"/{found[2]}" if found[2] else "")


@contextmanager
def running(launch: Launch, python: Path | None = None) -> Iterator[EngineProcess]:
    """The launch in a process, not waited for; stopped and gone at the end, with its files."""
    folder = Path(tempfile.mkdtemp(prefix="im-"))  # a short path: a socket's may have 107 bytes
    engine = EngineProcess(launch, python or Path(sys.executable), folder)
    try:
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(folder)


@dataclass(frozen=True)
class World:
    """An engine, the adapter under test, and the entry that it was launched for."""

    adapter: EngineAdapter
    engine: EngineProcess
    model: ModelLaunch

    @property
    def endpoint(self) -> Endpoint:
        return self.engine.endpoint

    def wait_ready(self) -> None:
        """Until it answers: vLLM says that it is up just before it listens."""
        self.engine.wait_started()
        asyncio.run(asyncio.wait_for(self._until_it_answers(), _ANSWER_SECONDS))

    async def _until_it_answers(self) -> None:
        while not (await self.adapter.probe(self.endpoint)).ready:
            pass

    def secrets(self) -> list[str]:
        """Words that no caller may get to see."""
        return [word for word in (self.endpoint.uds, self.model.model_path) if word]
