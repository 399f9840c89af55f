"""Listens, serves, and stops in order: refuse, let the accepted finish, then close.

Owns the socket and the signals; what is served is given.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import structlog
import uvicorn

from controlplane.api.app import Asgi
from controlplane.errors import ConfigError

log = structlog.get_logger(__name__)

_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75


def listen(host: str, port: int) -> socket.socket:
    """Bind before anything is started. Raises ConfigError naming the remedy."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(_BACKLOG)
    except OSError as exc:
        bound.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {exc.strerror}; end what uses it, or choose another with --port"
        ) from exc
    bound.settimeout(0)
    return bound


class _Uvicorn(uvicorn.Server):
    """Leaves the signals to us: the order of stopping is not the web server's to decide."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """One listening socket and its application."""

    def __init__(self, app: Asgi, bound: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=5,
        )
        self._uvicorn = _Uvicorn(config)
        self._socket = bound

    async def run(self) -> None:
        await self._uvicorn.serve(sockets=[self._socket])

    def close(self, *, at_once: bool) -> None:
        """No new connections; `run` returns once the calls under way have ended, or were cut off `at_once`."""
        if at_once:
            self._uvicorn.config.timeout_graceful_shutdown = 0
        self._uvicorn.should_exit = True


@contextlib.contextmanager
def stop_signals(on_signal: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `on_signal`, each time they come."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
