"""The process: arguments, the faults of a start, listening, and vLLM's two ways to shut down."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import orjson
import uvloop

from engines.simulated.app import VERSION, App
from engines.simulated.core import Core
from engines.simulated.requests import Limits
from engines.simulated.script import Exit, OutOfMemory, Script, ScriptError, SlowFree, parse_script
from engines.simulated.wire import Connection, Site

log = logging.getLogger("simulated")

_OUT_OF_MEMORY = (
    "ValueError: Free memory on device cuda:0 (1.21/15.99 GiB) on startup is less than desired GPU memory utilization "
    "(0.92, 14.71 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m engines.simulated", description="An engine without a model.")
    parser.add_argument("--uds", metavar="PATH", help="listen on this unix socket; host and port are ignored")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", nargs="+", required=True, metavar="NAME", help="the names it is served under")
    parser.add_argument("--script", default="{}", help="a file, or JSON text: see engines/simulated/script.py")
    parser.add_argument("--state-dir", type=Path, help="remembers the number of starts, for only_first_start")
    return parser.parse_args(argv)


def _script_of_this_start(source: str, state_dir: Path | None) -> Script:
    script = parse_script(source)
    if state_dir is not None:
        return script.at_start(_count_start(state_dir))
    if any(fault.only_first_start for fault in script.faults):
        raise ScriptError("only_first_start needs --state-dir, which remembers the starts")
    return script


def _count_start(state_dir: Path) -> int:
    """The number of this start, from 1, kept in the folder."""
    state_dir.mkdir(parents=True, exist_ok=True)
    path = state_dir / "state.json"
    starts = 1 + (orjson.loads(path.read_bytes())["starts"] if path.exists() else 0)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_bytes(orjson.dumps({"starts": starts}))
    draft.replace(path)
    return int(starts)


def _bind(arguments: argparse.Namespace) -> socket.socket:
    """Bound but not listening, as vLLM's is until the engine is ready: connections are refused."""
    if arguments.uds is None:
        sock = socket.socket(socket.AF_INET6 if ":" in arguments.host else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((arguments.host, arguments.port))
        return sock
    path = Path(arguments.uds)
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(arguments.uds)
    return sock


def _unlink_own(path: Path, inode: int) -> None:
    """Remove our socket, unless a successor has put its own in its place."""
    if path.exists() and path.stat().st_ino == inode:
        path.unlink()


async def _listen(sock: socket.socket, site: Site) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    if sock.family == socket.AF_UNIX:
        return await loop.create_unix_server(lambda: Connection(site), sock=sock, backlog=2048)
    return await loop.create_server(lambda: Connection(site), sock=sock, backlog=2048)


async def _serve(core: Core, sock: socket.socket, models: tuple[str, ...], stop: asyncio.Event) -> None:
    """Serve until `stop`, then shut down as vLLM does."""
    script = core.script
    limits = Limits(models, script.max_model_len, script.answer_tokens, script.takes_images)
    site = Site(script.keep_alive_seconds)
    site.answer = App(core, limits, lambda: site.in_flight)
    server = await _listen(sock, site)
    log.info("Supported tasks: ('generate', 'embed')")
    name = sock.getsockname()
    log.info("Starting vLLM server on %s", f"unix:{name}" if isinstance(name, str) else f"http://{name[0]}:{name[1]}")
    log.info("Application startup complete.")
    await stop.wait()
    slow = script.first(SlowFree)
    if slow is not None:
        log.info("Taking no notice of the signal for %g seconds", slow.seconds)
        await asyncio.sleep(slow.seconds)
    log.info("Shutting down")
    if script.shutdown_timeout_seconds:
        await core.drain()
    core.kill()
    server.close()
    site.close_idle()
    await site.empty.wait()  # without a drain, until the clients of dropped requests have gone away
    log.info("Application shutdown complete.")


async def _run(script: Script, models: tuple[str, ...], sock: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    leave = script.first(Exit)
    if leave is not None:
        loop.call_later(leave.seconds, os._exit, leave.code)
    log.info("non-default args: {'model': %r, 'script': %s}", models[0], script)
    log.info("Resolved architecture: SimulatedForCausalLM")
    log.info("Initializing a V1 LLM engine (v%s) with config: model=%r", VERSION, models[0])
    if script.first(OutOfMemory) is not None:
        log.error(_OUT_OF_MEMORY)
        return 1
    core = Core(script, loop)
    loading = asyncio.create_task(core.load(models[0]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not loading.done() and script.first(SlowFree) is None:
        loading.cancel()
        log.info("Interrupted while loading")
        return 0
    await loading
    await _serve(core, sock, models, stop)
    return 0


def main(argv: list[str]) -> int:
    """Run until a signal. Returns the exit status: 0, 1 when the start failed, 2 for wrong arguments."""
    logging.basicConfig(
        stream=sys.stdout,
        level=logging.INFO,
        format="%(levelname)s %(asctime)s [%(filename)s:%(lineno)d] %(message)s",
        datefmt="%m-%d %H:%M:%S",
    )
    arguments = _arguments(argv)
    try:
        script = _script_of_this_start(arguments.script, arguments.state_dir)
        sock = _bind(arguments)
        inode = Path(arguments.uds).stat().st_ino if arguments.uds else None
    except ScriptError as exc:
        log.error("%s", exc)
        return 2
    except OSError as exc:
        log.error("cannot listen on %s: %s", arguments.uds or f"{arguments.host}:{arguments.port}", exc)
        return 1
    try:
        return uvloop.run(_run(script, tuple(arguments.model), sock))
    finally:
        sock.close()
        if inode is not None:
            _unlink_own(Path(arguments.uds), inode)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
