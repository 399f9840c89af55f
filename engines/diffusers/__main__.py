"""The process: arguments, loading, listening, and the end: SIGTERM lets running requests finish within a grace."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from time import time

import uvicorn
from pydantic import ValidationError

from engines.diffusers.app import application
from engines.diffusers.engine import Engine
from engines.diffusers.errors import LoadFailed
from engines.diffusers.jobs import PipelineWorker
from engines.diffusers.live import LiveRequests
from engines.diffusers.metrics import Metrics
from engines.diffusers.options import EngineOptions
from engines.diffusers.results import KeptResults
from engines.diffusers.threads import PictureThreads
from engines.diffusers.upscaling import Upscaler, Upscaling

log = logging.getLogger("diffusers_engine")

_CANCELLING_SECONDS = 10.0  # what cancelled requests have to come to the end of a step


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="engines/run.py diffusers", description="Serves a diffusers pipeline.")
    parser.add_argument("--uds", metavar="PATH", help="listen on this unix socket; host and port are ignored")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--model-path", type=Path, metavar="DIR", help="the pipeline; without one only images are processed"
    )
    parser.add_argument("--model", nargs="+", required=True, metavar="NAME", help="the names it is served under")
    parser.add_argument(
        "--options", type=_options, default=EngineOptions(), metavar="JSON", help="see engines/diffusers/options.py"
    )
    parser.add_argument(
        "--grace-seconds", type=float, default=30.0, help="what running requests have to finish after SIGTERM"
    )
    return parser.parse_args(argv)


def _options(text: str) -> EngineOptions:
    try:
        return EngineOptions.model_validate_json(text)
    except ValidationError as exc:
        fault = exc.errors(include_url=False)[0]
        raise argparse.ArgumentTypeError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from exc


def _bind(arguments: argparse.Namespace) -> socket.socket:
    """Bound but not listening until the pipeline is loaded: connections are refused."""
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


def _unlink_own(uds: str | None, inode: int | None) -> None:
    """Remove our socket, unless a successor has put its own in its place."""
    if uds and Path(uds).exists() and Path(uds).stat().st_ino == inode:
        Path(uds).unlink()


@dataclass(frozen=True, slots=True)
class Loaded:
    """What takes time to load, and is there before the server listens."""

    worker: PipelineWorker | None
    upscaler: Upscaler | None

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()


def load_upscaler(path: Path, options: EngineOptions) -> Upscaler:
    """Only here, and only where an upscaler is asked for, torch is imported. Raises `LoadFailed`."""
    from engines.diffusers import upscale  # noqa: PLC0415

    return upscale.load_upscaler(path, options)


def load_pipeline(model_path: Path, options: EngineOptions) -> PipelineWorker:
    """As above, where a pipeline is asked for. Raises `LoadFailed`."""
    from engines.diffusers.worker import start_worker  # noqa: PLC0415

    return start_worker(model_path, options)


class _Server(uvicorn.Server):
    """Leaves the signals to us, for we drain first, and says when it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or ():
            log.info("Serving on %s", _address(sock))

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _address(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"unix:{name}" if isinstance(name, str) else f"http://{name[0]}:{name[1]}"


@dataclass(frozen=True, slots=True)
class Loaders:
    """How pipeline and upscaler are loaded; the tests load others."""

    pipeline: Callable[[Path, EngineOptions], PipelineWorker] = load_pipeline
    upscaler: Callable[[Path, EngineOptions], Upscaler] = load_upscaler


def _server(engine: Engine) -> _Server:
    config = uvicorn.Config(
        application(engine),
        log_config=None,
        access_log=False,
        lifespan="off",
        # Longer than callers keep theirs: closed by them, a connection never breaks under a request.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    return _Server(config)


def _engine(arguments: argparse.Namespace, loaded: Loaded) -> Engine:
    options: EngineOptions = arguments.options
    metrics = Metrics(loaded.worker)
    results = KeptResults(options.keep_results_seconds, options.keep_results_mib)
    metrics.watch_kept(lambda: results.mib)
    return Engine(
        models=tuple(arguments.model),
        options=options,
        worker=loaded.worker,
        requests=LiveRequests(results, metrics, options.max_waiting_images),
        metrics=metrics,
        threads=PictureThreads(),
        upscaling=Upscaling(loaded.upscaler) if loaded.upscaler else None,
        started_at=int(time()),
    )


async def _serve(arguments: argparse.Namespace, loaded: Loaded, sock: socket.socket) -> None:
    """Serve until a signal, then drain; a second signal ends the grace."""
    engine = _engine(arguments, loaded)
    signals: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, None)
    server = _server(engine)
    serving = asyncio.create_task(server.serve([sock]))
    signalled = asyncio.create_task(signals.get())
    await asyncio.wait({serving, signalled}, return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    log.info("Shutting down")
    # Asleep, nothing would be finished, however long it had.
    grace_seconds = 0.0 if engine.asleep else arguments.grace_seconds
    if not await _drained(engine.requests, grace_seconds, signals):
        engine.requests.break_off()
        await engine.requests.drain(_CANCELLING_SECONDS)
    server.should_exit = True
    await serving
    engine.close()


async def _drained(requests: LiveRequests, grace_seconds: float, signals: "asyncio.Queue[None]") -> bool:
    """Whether all requests ended before the grace, or a second signal, ended it."""
    draining = asyncio.create_task(requests.drain(grace_seconds))
    hurried = asyncio.create_task(signals.get())
    await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    drained = draining.done() and draining.result()
    draining.cancel()
    return drained


def _load(arguments: argparse.Namespace, loaders: Loaders) -> Loaded:
    """The upscaler first: what the pipeline may use is what is left then. Raises `LoadFailed`."""
    options: EngineOptions = arguments.options
    path: Path | None = arguments.model_path
    upscaler = loaders.upscaler(Path(options.upscaler), options) if options.upscaler else None
    if path is None:
        return Loaded(None, upscaler)
    log.info("Loading pipeline %s", path)
    return Loaded(loaders.pipeline(path, options), upscaler)


def _run(arguments: argparse.Namespace, sock: socket.socket, loaders: Loaders) -> int:
    try:
        loaded = _load(arguments, loaders)
    except LoadFailed as exc:
        log.error("cannot start: %s", exc)
        return 1
    try:
        asyncio.run(_serve(arguments, loaded, sock))
    finally:
        loaded.close()
    log.info("Application shutdown complete.")
    return 0


def main(argv: list[str], loaders: Loaders = Loaders()) -> int:
    """Run until a signal. Returns the exit status: 0, 1 when the start failed, 2 for wrong arguments."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(asctime)s %(name)s: %(message)s")
    arguments = _arguments(argv)
    try:
        sock = _bind(arguments)
    except OSError as exc:
        log.error("cannot listen on %s: %s", arguments.uds or f"{arguments.host}:{arguments.port}", exc)
        return 1
    inode = Path(arguments.uds).stat().st_ino if arguments.uds else None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _leave(arguments.uds, inode))
    try:
        return _run(arguments, sock, loaders)
    finally:
        sock.close()
        _unlink_own(arguments.uds, inode)


def _leave(uds: str | None, inode: int | None) -> None:
    """A signal while loading: nothing runs that could be finished, and a load cannot be stopped."""
    log.info("Interrupted while loading")
    _unlink_own(uds, inode)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
