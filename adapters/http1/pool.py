"""The connections to one endpoint: opened on demand, kept for a while, closed all at once.

How many requests run at a time is decided elsewhere; the pool only bounds what stays open while idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from adapters.endpoint import Endpoint
from adapters.errors import EngineDied, EngineTimeout, EngineUnreachable
from adapters.http1.connection import Connection, Response
from adapters.http1.request import Header, encode_head

# An engine that closed an idle connection did so before our request reached it, so the loss shows almost at once.
# A later loss means that it was at work on our request, which must not be sent twice.
STALE_WINDOW_SECONDS = 1.0


class Pool:
    """Sends requests to one endpoint. Belongs to the event loop that first uses it."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        connect_timeout_seconds: float = 5.0,
        keepalive_seconds: float = 4.0,
        max_idle: int = 128,
        max_head_bytes: int = 64 * 1024,
        stale_window_seconds: float = STALE_WINDOW_SECONDS,
    ) -> None:
        """`keepalive_seconds` must stay below the engine's own limit (vLLM's is 5)."""
        self._endpoint = endpoint
        self._host = endpoint.authority.encode("ascii")
        self._connect_timeout_seconds = connect_timeout_seconds
        self._keepalive_seconds = keepalive_seconds
        self._max_idle = max_idle
        self._max_head_bytes = max_head_bytes
        self._stale_window_seconds = stale_window_seconds
        self._open: set[Connection] = set()
        self._idle: dict[Connection, float] = {}  # since when; oldest first
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(
        self,
        method: str,
        target: bytes | str,
        headers: Sequence[Header] = (),
        body: bytes = b"",
        timeout_seconds: float | None = None,
    ) -> Response:
        """Send one request and return when the head of its response is in; 1xx answers are skipped.

        Host and framing headers are ours; the caller's are dropped. Cancelling this call closes the connection.
        Raises `EngineUnreachable` (nothing was delivered), `EngineDied`, `EngineProtocolError`, `EngineTimeout`
        (no head after `timeout_seconds`), or `ValueError` for a field that cannot be sent.
        """
        head = encode_head(method, target, self._host, headers, len(body))
        bodiless = method == "HEAD"
        reused = self._take_idle()
        if reused is not None:
            sent_at = asyncio.get_running_loop().time()
            try:
                return await self._answer(reused.start(head, body, bodiless), timeout_seconds)
            except EngineDied:
                waited_seconds = asyncio.get_running_loop().time() - sent_at
                if self._closed or not reused.untouched or waited_seconds >= self._stale_window_seconds:
                    raise
        try:
            fresh = await self._connect()
        except EngineUnreachable as exc:
            if reused is None:
                raise
            raise EngineDied(f"the engine closed the connection, and a new one failed: {exc}") from exc
        return await self._answer(fresh.start(head, body, bodiless), timeout_seconds)

    def close(self) -> None:
        """Close every connection at once; requests in flight end with `EngineDied`, later ones are refused."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in list(self._open):
            connection.fail(EngineDied(f"the connections to {self._endpoint} were closed"))

    @property
    def open_connections(self) -> int:
        return len(self._open)

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    async def _answer(self, response: Response, timeout_seconds: float | None) -> Response:
        try:
            if timeout_seconds is None:
                await response.wait_head()
            else:
                async with asyncio.timeout(timeout_seconds):
                    await response.wait_head()
        except TimeoutError as exc:
            response.close()
            raise EngineTimeout(f"{self._endpoint} did not answer within {timeout_seconds:g} s") from exc
        except asyncio.CancelledError:
            response.close()
            raise
        return response

    async def _connect(self) -> Connection:
        if self._closed:
            raise EngineUnreachable(f"cannot send to {self._endpoint}: its connections were closed")
        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                connection = await self._dial()
        except TimeoutError as exc:
            raise EngineUnreachable(
                f"cannot connect to {self._endpoint}: no answer within {self._connect_timeout_seconds:g} s"
            ) from exc
        except OSError as exc:
            raise EngineUnreachable(f"cannot connect to {self._endpoint}: {exc}") from exc
        if not connection.usable():
            raise EngineUnreachable(f"cannot send to {self._endpoint}: the connection was closed at once")
        return connection

    async def _dial(self) -> Connection:
        loop = asyncio.get_running_loop()
        endpoint = self._endpoint
        if endpoint.uds is not None:
            return (await loop.create_unix_connection(self._make_connection, endpoint.uds))[1]
        assert endpoint.host is not None
        assert endpoint.port is not None
        return (await loop.create_connection(self._make_connection, endpoint.host, endpoint.port))[1]

    def _make_connection(self) -> Connection:
        return Connection(self, self._max_head_bytes)

    def _take_idle(self) -> Connection | None:
        if not self._idle:
            return None
        connection, since = self._idle.popitem()
        if asyncio.get_running_loop().time() - since < self._keepalive_seconds and connection.usable():
            return connection
        connection.abort()
        return None

    def _drop_expired(self) -> None:
        """Close what has been idle too long, and come back when the next one is due."""
        self._sweep = None
        loop = asyncio.get_running_loop()
        for connection, since in list(self._idle.items()):
            if since + self._keepalive_seconds > loop.time():
                self._sweep = loop.call_at(since + self._keepalive_seconds, self._drop_expired)
                return
            connection.abort()

    # the connections call these (ConnectionOwner)

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)
        if self._closed:
            connection.abort()

    def finished(self, connection: Connection) -> None:
        if len(self._idle) >= self._max_idle:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.time()
        if self._sweep is None:
            self._sweep = loop.call_later(self._keepalive_seconds, self._drop_expired)

    def unusable(self, connection: Connection) -> None:
        self._idle.pop(connection, None)

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)
