"""The real `inferctl serve` in a process of its own: started, watched, killed, restarted, and gone for sure.

Everything is seen from outside: the API, the log, /proc and the state directory.
"""

import asyncio
import hashlib
import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from openai import AsyncOpenAI

T = TypeVar("T")
INFERCTL = Path(sys.executable).with_name("inferctl")
PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.02
_DEFAULTS: dict[str, Any] = {
    "devices": {"source": "host", "budgets_mib": {"host": 1000}},
    "scheduling": {"min_residency_seconds": 0, "resync_seconds": 1, "backoff_initial_seconds": 0.2},
}


async def until(condition: Callable[[], T | Awaitable[T]], timeout: float = PATIENCE_SECONDS, what: str = "") -> T:
    """Look at an external process again and again until this holds; its value. The only place with a pause."""
    try:
        async with asyncio.timeout(timeout):
            while not (found := await _value(condition)):
                await asyncio.sleep(_PAUSE_SECONDS)
            return found
    except TimeoutError as exc:
        name = what or inspect.getsource(condition).strip()
        raise AssertionError(f"not within {timeout:.0f} s: {name}") from exc


async def _value(condition: Callable[[], T | Awaitable[T]]) -> T:
    found = condition()
    return await found if inspect.isawaitable(found) else found


def model(model_id: str, *, slots: int = 4, mib: int = 64, script: dict[str, Any] | None = None, **entry: Any) -> Any:
    """An entry of models.json on the simulated engine."""
    return {
        "model_id": model_id,
        "model_type": "text2text",
        "engine": "simulated",
        "vram_required_mb": mib,
        "max_concurrency": slots,
        "parameters": {"script": script or {}, **entry.pop("parameters", {})},
        **entry,
    }


class Service:
    """One state directory and the control planes that live on it, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.config = folder / "service.json"
        self.lives = 0
        self.base_url = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._http: httpx.AsyncClient | None = None
        self._clients: list[AsyncOpenAI] = []

    def write(self, *models: dict[str, Any], **keys: Any) -> None:
        """Write both files; a dict given for a section is laid over its defaults, a list stands for itself."""
        lists = {name: value for name, value in keys.items() if isinstance(value, list)}
        sections = {name: {**_DEFAULTS.get(name, {}), **keys.get(name, {})} for name in {*_DEFAULTS, *keys} - {*lists}}
        service = {"state_dir": "state", "cache_dir": "cache", **sections, **lists}
        (self.folder / "models.json").write_text(json.dumps({"models": models}))
        self.config.write_text(json.dumps(service))

    # life and death

    @property
    def log_path(self) -> Path:
        return self.folder / f"serve-{self.lives}.log"

    def spawn(self) -> "subprocess.Popen[bytes]":
        """Start the program and return at once."""
        self.lives += 1
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [INFERCTL, "serve", "--config", self.config, "--port", "0"],
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("INFERCTL_")},
            )
        return self.process

    async def start(self) -> None:
        """Start it and wait until it listens."""
        self.spawn()
        self.base_url = (await self.logged("listening"))["url"]
        self._http = httpx.AsyncClient(base_url=self.base_url, timeout=PATIENCE_SECONDS)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Engines stay."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM, and wait for its exit status."""
        return await self._end(signal.SIGTERM)

    async def restart(self) -> None:
        """SIGKILL and a new life on the same state."""
        await self.kill()
        await self.start()

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = await self.ended()
        await self.hang_up()
        return code

    async def ended(self, timeout: float = PATIENCE_SECONDS) -> int:
        """The exit status, once it has ended by itself."""
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, timeout)

    async def hang_up(self) -> None:
        """Close every client of ours."""
        for client in self._clients:
            await client.close()
        self._clients.clear()
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    # what can be seen

    def events(self) -> list[dict[str, Any]]:
        """The log of this life, as far as its lines are events."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    async def logged(self, event: str, **fields: Any) -> dict[str, Any]:
        """The first event of this name and with these fields, once it was logged."""

        def found() -> dict[str, Any] | None:
            wanted = {"event": event, **fields}.items()
            seen = next((each for each in self.events() if wanted <= each.items()), None)
            if seen is None and self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"it ended with {self.process.returncode}:\n{self.log_path.read_text()}")
            return seen

        return await until(found, what=f"{event} {fields} in the log of life {self.lives}")  # type: ignore[return-value]

    @property
    def http(self) -> httpx.AsyncClient:
        """A client for anything under the base address."""
        assert self._http is not None
        return self._http

    def openai(self, **options: Any) -> AsyncOpenAI:
        """The official SDK, without retries unless asked for; closed by the fixture."""
        options = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE_SECONDS, **options}
        client = AsyncOpenAI(base_url=f"{self.base_url}/v1", **options)
        self._clients.append(client)
        return client

    async def admin(self, what: str, **query: Any) -> Any:
        """GET /admin/`what`: the whole answer."""
        answer = await self.http.get(f"/admin/{what}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def order(self, model_id: str, verb: str) -> httpx.Response:
        """POST load, unload, pin or unpin."""
        return await self.http.post(f"/admin/models/{model_id}/{verb}")

    async def model(self, model_id: str) -> Any:
        return next(each for each in (await self.admin("models"))["models"] if each["model_id"] == model_id)

    async def replica(self, replica_id: str) -> Any:
        """Its view; an empty one when there is no such replica."""
        return next((r for r in (await self.admin("replicas"))["replicas"] if r["replica_id"] == replica_id), {})

    async def journal(self, **query: Any) -> list[Any]:
        """Requests, newest first."""
        return list((await self.admin("requests", limit=1000, **query))["requests"])

    async def request(self, request_id: str) -> Any:
        """Its row in the journal."""
        return next(row for row in await self.journal() if row["request_id"] == request_id)

    async def in_state(self, replica_id: str, state: str, timeout: float = PATIENCE_SECONDS) -> Any:
        """Wait until the replica is in this state; its view."""

        async def there() -> Any:
            found = await self.replica(replica_id)
            return found if found.get("state") == state else None

        return await until(there, timeout, f"{replica_id} {state}")

    async def kept(self, replica_id: str, state: str) -> None:
        """Wait until this state of the replica is on disk: a call may be answered before."""

        async def there() -> bool:
            events = (await self.admin("events", limit=1000))["events"]
            return any((e["subject"], e["kind"]) == (replica_id, f"replica.{state}") for e in events)

        await until(there, what=f"{replica_id} {state} in the store")

    async def busy(self, model_id: str, *, running: int | None = None, waiting: int | None = None) -> Any:
        """Wait until so many requests run and wait for the model; its view."""

        async def there() -> Any:
            found = await self.model(model_id)
            same = running in (None, found["running"]) and waiting in (None, found["waiting"])
            return found if same else None

        return await until(there, what=f"{model_id}: running {running}, waiting {waiting}")

    # engines, seen in /proc

    @property
    def store_id(self) -> str:
        return hashlib.sha256(str(self.state_dir.resolve()).encode()).hexdigest()[:12]

    def engines(self, replica_id: str | None = None) -> list[psutil.Process]:
        """Every living process that carries our label, children included."""
        found = []
        for process in psutil.process_iter():
            try:
                variables = process.environ()
                alive = process.status() != psutil.STATUS_ZOMBIE
            except (psutil.Error, OSError):
                continue
            mine = variables.get("IM_STORE") == self.store_id
            if alive and mine and replica_id in (None, variables.get("IM_REPLICA")):
                found.append(process)
        return found

    def pid(self, view: Any) -> int:
        """The main process of a replica that the admin API shows."""
        return int(view["handle"].removeprefix("pid "))

    def litter(self) -> list[str]:
        """Sockets, records and working folders of replicas."""
        places = [self.state_dir / "run", self.state_dir / "work"]
        places += Path(tempfile.gettempdir()).glob(f"im-{_digest(self.store_id)}*")
        return [str(path) for place in places if place.is_dir() for path in place.iterdir()]

    def assert_nothing_left(self) -> None:
        """No process, no socket, no record, no working folder of a replica."""
        assert not self.engines(), [process.cmdline() for process in self.engines()]
        assert not self.litter(), self.litter()

    async def end(self) -> None:
        """What a test is over with: stop in order, then prove that nothing of ours is left."""
        try:
            await self.hang_up()
            if self.process is not None and self.process.poll() is None:
                code = await self.stop()
                assert code == 0, self.log_path.read_text()[-4000:]
            self.assert_nothing_left()
        finally:
            await self.hang_up()
            self._kill_all()

    def _kill_all(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in self.engines():
            process.kill()


Serve = Callable[..., Awaitable[Service]]
"""The fixture `serve`: entries and sections of a configuration to a running service."""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
