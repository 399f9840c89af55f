"""What is measured: the control plane with the replica it starts, nginx, vLLM's router, and no gateway at all.

All of them pass calls to the same engine, which is the replica. Everything started here ends with its context.
"""

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson

from benchmarks.cpu import pin
from benchmarks.load import Address

TOKENS_PER_SECOND = 50
SLOTS = 512
NGINX_MISSING = "nginx was not found; on Debian and its kin: apt-get install nginx-light"
_SCRIPT = {"tokens_per_second": TOKENS_PER_SECOND, "max_num_seqs": SLOTS}
_START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the gateway runs and where everything else does; None leaves it to the kernel."""

    gateway: int | None
    rest: int | None


@dataclass(frozen=True, slots=True)
class Gateway:
    """One way to the engine. `pid` leads the processes whose CPU time is counted."""

    name: str
    address: Address
    pid: int


@dataclass(frozen=True, slots=True)
class Engine:
    """The replica that all ways lead to."""

    pid: int
    uds: str

    @property
    def direct(self) -> Gateway:
        return Gateway("direct", Address(uds=self.uds), self.pid)


def cores() -> Cores:
    """The gateway on the first of our cores and everything else on the second, where there are two."""
    ours = sorted(os.sched_getaffinity(0))
    return Cores(ours[0], ours[1]) if len(ours) > 1 else Cores(None, None)


@contextlib.asynccontextmanager
async def control_plane(folder: Path, places: Cores) -> AsyncIterator[tuple[Gateway, Engine]]:
    """`inferctl serve` as users run it: API keys, journal and metrics on; it starts the engine itself."""
    key = secrets.token_urlsafe(24)
    config = _write_config(folder, key)
    port = free_port()
    command = (sys.executable, "-m", "controlplane.cli", "serve", "--config", str(config), "--port", str(port))
    async with _started(command, places.gateway, folder / "serve.log") as process:
        await _accepts(port, process, folder / "serve.log")
        gateway = Gateway("inference manager", Address(port=port, key=key), process.pid)
        engine = await _engine(port, key)
        pin(engine.pid, places.rest)
        yield gateway, engine


@contextlib.asynccontextmanager
async def nginx(folder: Path, places: Cores, engine: Engine) -> AsyncIterator[Gateway]:
    """One nginx worker as a plain proxy, with nothing of the machine's own configuration."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(user=_nginx_user(), folder=folder, port=port, uds=engine.uds))
    log = folder / "nginx.log"
    command = (_nginx_binary(), "-p", str(folder), "-c", str(config), "-e", str(log))
    async with _started(command, places.gateway, log) as process:
        await _accepts(port, process, log)
        yield Gateway("nginx", Address(port=port), process.pid)


@contextlib.asynccontextmanager
async def vllm_router(binary: str, folder: Path, places: Cores) -> AsyncIterator[Gateway]:
    """vLLM's own router (Rust). It takes no unix sockets, so it gets an engine of the same kind on a port."""
    port, upstream = free_port(), free_port()
    script = orjson.dumps(_SCRIPT).decode()
    engine = ("-m", "engines.simulated", "--port", str(upstream), "--model", "bench", "--script", script)
    router = ("--worker-urls", f"http://127.0.0.1:{upstream}", "--host", "127.0.0.1", "--port", str(port))
    ports = ("--policy", "round_robin", "--prometheus-port", str(free_port()))
    log = folder / "vllm-router.log"
    async with _started((sys.executable, *engine), places.rest, log) as served:
        await _accepts(upstream, served, log)
        async with _started((binary, *router, *ports), places.gateway, log) as process:
            await _accepts(port, process, log)
            yield Gateway("vllm-router", Address(port=port), process.pid)


def nginx_found() -> bool:
    return _nginx_binary() != ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _nginx_binary() -> str:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") or ""


def _nginx_user() -> str:
    """Started by root, a worker would become somebody who may not open the replica's socket."""
    return "user root;" if os.geteuid() == 0 else ""


@contextlib.asynccontextmanager
async def _started(command: tuple[str, ...], core: int | None, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process in a session of its own, bound to `core`; asked to end afterwards, and waited for."""
    placed = command if core is None else ("taskset", "--cpu-list", str(core), *command)
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            *placed, stdin=asyncio.subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


def _write_config(folder: Path, key: str) -> Path:
    model = {
        "model_id": "bench",
        "model_type": "text2text",
        "engine": "simulated",
        "vram_required_mb": 256,
        "max_concurrency": SLOTS,
        "min_replicas": 1,
        "parameters": {"script": _SCRIPT},
    }
    served = {
        "state_dir": str(folder / "state"),
        "cache_dir": str(folder / "cache"),
        "devices": {"source": "host", "budgets_mib": {"host": 256}},
        "api_keys": [
            {"name": "bench", "key": {"sha256": hashlib.sha256(key.encode()).hexdigest()}, "scopes": ["user", "admin"]}
        ],
        "logging": {"format": "json"},
    }
    (folder / "models.json").write_bytes(orjson.dumps({"models": [model]}))
    config = folder / "inference_manager.json"
    config.write_bytes(orjson.dumps(served))
    return config


async def _engine(port: int, key: str) -> Engine:
    """Where the replica listens, once it has answered a first call."""
    headers = {"authorization": f"Bearer {key}"}
    ask = {"model": "bench", "max_tokens": 1, "messages": [{"role": "user", "content": "Are you there?"}]}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=_START_SECONDS) as http:
        (await http.post("/v1/chat/completions", json=ask)).raise_for_status()
        replica = (await http.get("/admin/replicas")).raise_for_status().json()["replicas"][0]
    return Engine(int(replica["handle"].removeprefix("pid ")), replica["endpoint"].removeprefix("unix:"))


async def _accepts(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    """Until the port takes connections: programs that are not ours tell of it in no other way."""
    async with asyncio.timeout(_START_SECONDS):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            await writer.wait_closed()
            return
    raise RuntimeError(f"ended before it listened on port {port}; see {log}")


_NGINX = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  tcp_nodelay on;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_body_buffer_size 1m;
  upstream engine {{
    server unix:{uds};
    keepalive 512;
    keepalive_requests 100000000;
    keepalive_timeout 4s;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""
