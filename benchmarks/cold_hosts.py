"""`inferctl serve` on one runtime or the other, and what it and its surroundings record of a start.

Containers go through the gate, as shipped. Everything started here ends with its context.
"""

import asyncio
import contextlib
import datetime
import json
import os
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import httpx

from benchmarks.cold_phases import Recorded

PATIENCE_SECONDS = 1800.0
_PAUSE_SECONDS = 0.01
_RFC3339 = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z(?: (.*))?$")


@dataclass
class Host:
    """A service that listens; `containers` is the way to its containers past the gate, None for processes."""

    name: str
    folder: Path
    http: httpx.AsyncClient
    containers: docker.DockerClient | None
    _seen: int = field(default=0)

    async def start(self, model: str, path: str, body: Mapping[str, Any]) -> Recorded:
        """A first call to a model that is stopped, and everything recorded of it; stopped again afterwards."""
        await self._events()
        with _Follower(self.folder / "state" / "logs" / f"{model}-0.log") as follower:
            began = time.monotonic()
            answer = await self.http.post(path, json={**body, "model": model})
            seconds = time.monotonic() - began
        if answer.status_code != httpx.codes.OK:
            raise RuntimeError(f"{model} on {self.name}: {answer.text}")
        moments = await self._moments("replica.ready")
        handle = await self._handle(model)
        running, lines = self._container(handle) if self.containers else (_began(handle), follower.lines)
        await self._stop(model)
        return Recorded(moments["replica.starting"], running, lines, moments["replica.ready"], seconds)

    async def _moments(self, last: str) -> dict[str, float]:
        """When what happened since the last look, up to `last`, which may be on disk only after the answer."""
        moments: dict[str, float] = {}
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                moments |= {event["kind"]: event["at"] for event in await self._events()}
                if last in moments:
                    return moments
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _events(self) -> list[dict[str, Any]]:
        """Those that are new since the last look."""
        answer = await self.http.get("/admin/events", params={"after": self._seen, "limit": 1000})
        events: list[dict[str, Any]] = answer.raise_for_status().json()["events"]
        self._seen = max((event["id"] for event in events), default=self._seen)
        return events

    async def _handle(self, model: str) -> str:
        replicas = (await self.http.get("/admin/replicas")).raise_for_status().json()["replicas"]
        return str(next(one["handle"] for one in replicas if one["model_id"] == model)).rpartition(" ")[2]

    async def _stop(self, model: str) -> None:
        (await self.http.post(f"/admin/models/{model}/unload")).raise_for_status()
        await self._moments("replica.stopped")

    def _container(self, identity: str) -> tuple[float, list[tuple[float, str]]]:
        assert self.containers is not None
        container = self.containers.containers.get(identity)
        raw = container.logs(timestamps=True).decode(errors="replace").splitlines()
        running, _ = _stamped(container.attrs["State"]["StartedAt"])
        return running, [_stamped(line) for line in raw if _RFC3339.match(line)]


class _Follower:
    """Stamps the lines of a log file as they come: engines stamp theirs by the second, or not at all."""

    def __init__(self, path: Path) -> None:
        self.lines: list[tuple[float, str]] = []
        self._path = path
        self._old = _inode(path)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> "_Follower":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        # Every run has a file of its own, so a new one is waited for.
        while _inode(self._path) in (None, self._old):
            if self._over.wait(_PAUSE_SECONDS):
                return
        with self._path.open(errors="replace") as log:
            while not self._over.is_set() or self._read(log.read()):
                self._read(log.read())
                self._over.wait(_PAUSE_SECONDS)

    def _read(self, text: str) -> bool:
        now = time.time()
        self.lines += [(now, line) for line in text.splitlines()]
        return bool(text)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _began(pid: str) -> float:
    """When a process began. The kernel counts from its own start, to the hundredth of a second."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _stamped(line: str) -> tuple[float, str]:
    found = _RFC3339.match(line)
    assert found is not None, line
    whole = datetime.datetime.fromisoformat(found[1]).replace(tzinfo=datetime.UTC).timestamp()
    return whole + float(found[2] or 0), found[3] or ""


@contextlib.asynccontextmanager
async def processes(folder: Path, models: list[dict[str, Any]], cache: Path) -> AsyncIterator[Host]:
    async with _serving(folder, models, cache, {"kind": "process"}) as http:
        yield Host("process", folder, http, None)


@contextlib.asynccontextmanager
async def containers(folder: Path, models: list[dict[str, Any]], cache: Path, socket: str) -> AsyncIterator[Host]:
    """`socket` is the path of the Docker engine's own."""
    listen = folder / "docker.sock"
    allowed = [f"--folder={path}" for path in (folder, cache, Path(__file__).parents[1])]
    allowed += [f"--image={image}" for image in ("inference-manager*", "vllm/vllm-openai:*")]
    gate = (sys.executable, "-m", "controlplane.gate", f"--docker={socket}", f"--listen={listen}", *allowed)
    section = {"kind": "docker", "docker": {"address": f"unix://{listen}"}}
    with contextlib.closing(docker.DockerClient(base_url=f"unix://{socket}", version="auto")) as raw:
        async with _running(gate, folder / "gate.log"), _serving(folder, models, cache, section) as http:
            yield Host("docker", folder, http, raw)


@contextlib.asynccontextmanager
async def _serving(
    folder: Path, models: list[dict[str, Any]], cache: Path, runtime: dict[str, Any]
) -> AsyncIterator[httpx.AsyncClient]:
    (folder / "models.json").write_text(json.dumps({"models": models}))
    budget = sum(model["vram_required_mb"] for model in models)
    settings = {
        "state_dir": "state",
        "cache_dir": str(cache),
        "runtime": runtime,
        "devices": {"source": "host", "budgets_mib": {"host": budget}},
        "scheduling": {"default_deadline_seconds": PATIENCE_SECONDS},
        "logging": {"format": "json"},
    }
    config, log = folder / "service.json", folder / "serve.log"
    config.write_text(json.dumps(settings))
    command = (sys.executable, "-m", "controlplane.cli", "serve", "--config", str(config), "--port", "0")
    async with _running(command, log) as process:
        url = await _listening(process, log)
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as http:
            yield http


async def _listening(process: asyncio.subprocess.Process, log: Path) -> str:
    """The address that it logs once it listens."""
    while process.returncode is None:
        for event in _logged(log):
            if event.get("event") == "listening":
                return str(event["url"])
        await asyncio.sleep(_PAUSE_SECONDS)
    raise RuntimeError(f"the service ended; its log: {list(_logged(log))[-20:]}")


def _logged(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text().splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


@contextlib.asynccontextmanager
async def _running(command: tuple[str, ...], log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process in a session of its own; asked to end afterwards, and waited for."""
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
