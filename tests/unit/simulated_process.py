"""A simulated engine in a process of its own, for tests: started, ready, spoken to, stopped, and gone for sure."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from adapters.endpoint import Endpoint
from adapters.http1 import Pool

READY = "Application startup complete."


class SimulatedProcess:
    """One run of `python -m engines.simulated`; `endpoint` is known once `wait_for(READY)` has returned."""

    def __init__(self, script: dict[str, Any], models: tuple[str, ...], arguments: list[str]) -> None:
        command = [sys.executable, "-m", "engines.simulated", "--model", *models, "--script", json.dumps(script)]
        self.process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True, bufsize=1
        )
        self.lines: list[str] = []
        self.endpoint: Endpoint | None = None

    def wait_for(self, text: str) -> str:
        """The next line with this text; fails when the process ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            self._note_endpoint(line)
            if text in line:
                return line
        raise AssertionError(f"the engine ended without {text!r}:\n" + "\n".join(self.lines))

    def _note_endpoint(self, line: str) -> None:
        if found := re.search(r"Starting vLLM server on http://([\d.]+):(\d+)", line):
            self.endpoint = Endpoint.tcp(found[1], int(found[2]))
        elif found := re.search(r"Starting vLLM server on unix:(\S+)", line):
            self.endpoint = Endpoint.unix(found[1])

    def wait(self) -> int:
        """The exit status, after the rest of the log was read."""
        assert self.process.stdout is not None
        self.lines += [line.rstrip() for line in self.process.stdout]
        return self.process.wait(30)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def resident_mib(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1024 / 1024

    def pool(self) -> Pool:
        assert self.endpoint is not None
        return Pool(self.endpoint)

    @property
    def base_url(self) -> str:
        """For an OpenAI client."""
        return f"{self.endpoint}/v1"

    def kill_all(self) -> None:
        """End the process and whatever is left in its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def simulated(
    script: dict[str, Any] | None = None,
    *,
    models: tuple[str, ...] = ("sim",),
    ready: bool = True,
    uds: Path | None = None,
    state_dir: Path | None = None,
) -> Iterator[SimulatedProcess]:
    """A simulated engine on a free port (or on a unix socket), ready unless told otherwise."""
    arguments = ["--uds", str(uds)] if uds is not None else ["--port", "0"]
    if state_dir is not None:
        arguments += ["--state-dir", str(state_dir)]
    engine = SimulatedProcess(script or {}, models, arguments)
    try:
        if ready:
            engine.wait_for(READY)
        yield engine
    finally:
        engine.kill_all()


async def metrics(pool: Pool) -> dict[str, float]:
    """The samples of `/metrics`, by name and by the labels other than the engine's and model's."""
    response = await pool.send("GET", "/metrics")
    page = (await response.read(1 << 20)).decode()
    samples = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            samples[re.sub(r'engine="0",model_name="[^"]*",?', "", name).replace("{}", "")] = float(value)
    return samples


async def until(pool: Pool, name: str, value: float) -> None:
    """Ask for the metrics until one has this value, for at most ten seconds."""
    async with asyncio.timeout(60):
        while (await metrics(pool))[name] != value:
            pass


async def post(pool: Pool, path: str, body: dict[str, Any], **headers: str) -> tuple[int, Any]:
    """(status, JSON answer)"""
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    response = await pool.send("POST", path, fields, json.dumps(body).encode())
    return response.status, json.loads(await response.read(1 << 24) or b"null")


def chat(text: str, **fields: Any) -> dict[str, Any]:
    """A chat body with one user message."""
    return {"model": "sim", "messages": [{"role": "user", "content": text}], **fields}
