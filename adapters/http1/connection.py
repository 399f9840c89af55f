"""One connection to an engine, and the response that is being read from it.

llhttp does the framing; we hold whatever payload has come since the reader last asked, and stop reading from the
socket above a high-water mark. A response lets go of its connection as soon as its last byte is in.
"""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType
from typing import Protocol, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from adapters.errors import EngineDied, EngineError, EngineProtocolError, EngineTimeout
from adapters.http1.request import Header

HIGH_WATER_BYTES = 64 * 1024


class ConnectionOwner(Protocol):
    """What a connection tells the pool that made it."""

    def opened(self, connection: Connection) -> None:
        """The socket is connected."""

    def finished(self, connection: Connection) -> None:
        """The response is complete, and the connection may carry another request."""

    def unusable(self, connection: Connection) -> None:
        """No further request may be sent on it; may be told more than once."""

    def lost(self, connection: Connection) -> None:
        """The socket is closed."""


class Response:
    """The engine's answer to one request. One reader at a time; `close()` it, or use it in a `with`."""

    __slots__ = ("_chunks", "_connection", "_ended", "_error", "_loop", "_size", "_waiter", "headers", "status")

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: list[Header] = []  # names in lower case, in the engine's order
        self._connection: Connection | None = connection
        self._loop = connection.loop
        self._chunks: list[bytes] = []
        self._size = 0
        self._ended = False
        self._error: EngineError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def next_chunk(self) -> bytes | None:
        """The payload that came since the last call, waiting for some if there is none; `None` at the end.

        Raises `EngineDied` when the connection is lost before the end, `EngineProtocolError` for a malformed body;
        in both cases only after everything that came before it was handed out.
        """
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            await self._change()
        chunks = self._chunks
        payload = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self._size = 0
        if self._connection is not None:
            self._connection.resume()
        return payload

    async def read(self, limit: int, timeout_seconds: float | None = None) -> bytes:
        """The whole remaining payload, at most `limit` bytes.

        Raises what `next_chunk` does, `EngineProtocolError` above the limit, and `EngineTimeout`; a response that
        raised is closed.
        """
        try:
            if timeout_seconds is None:
                return await self._read_all(limit)
            async with asyncio.timeout(timeout_seconds):
                return await self._read_all(limit)
        except TimeoutError as exc:
            raise EngineTimeout(f"the engine's answer was not complete after {timeout_seconds:g} s") from exc
        finally:
            self.close()

    def close(self) -> None:
        """Drop what is unread. An unfinished response loses its connection, which is how an engine hears a cancel."""
        self._chunks = []
        self._size = 0
        if self._connection is not None:
            self._connection.fail(EngineDied("the response was closed before its end"))

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def wait_head(self) -> None:
        """Until `status` and `headers` are known. Raises as `next_chunk` does."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._change()

    async def _read_all(self, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while (chunk := await self.next_chunk()) is not None:
            size += len(chunk)
            if size > limit:
                raise EngineProtocolError(f"the engine's answer is larger than {limit} bytes")
            parts.append(chunk)
        return b"".join(parts)

    def ended_by_eof(self) -> bool:
        """Whether the end of the connection is the proper end of this response (no length, not chunked)."""
        fields = dict(self.headers)
        chunked = fields.get(b"transfer-encoding", b"").lower().endswith(b"chunked")
        return self.status != 0 and b"content-length" not in fields and not chunked

    def add(self, payload: bytes) -> None:
        self._chunks.append(payload)
        self._size += len(payload)

    @property
    def unread(self) -> int:
        """Payload bytes that wait for the reader."""
        return self._size

    def end(self, error: EngineError | None = None) -> None:
        """No more will come: properly (no error) or not. Lets go of the connection."""
        self._connection = None
        self._ended = error is None
        self._error = error
        self.wake()

    def wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _change(self) -> asyncio.Future[None]:
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("a response has one reader at a time")
        self._waiter = waiter = self._loop.create_future()
        return waiter


class Connection(asyncio.Protocol):
    """One socket: carries one request at a time, any number one after the other."""

    def __init__(self, owner: ConnectionOwner, max_head_bytes: int) -> None:
        self._owner = owner
        self._max_head_bytes = max_head_bytes
        self._parser = HttpResponseParser(self)
        self._response: Response | None = None
        self._paused = False
        self.loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._begin_exchange(bodiless=False)

    def _begin_exchange(self, bodiless: bool) -> None:
        self.untouched = True  # no byte of a response has come
        self._bodiless = bodiless
        self._complete = False
        self._keep_alive = False
        self._head: list[Header] = []
        self._head_bytes = 0
        self._overhead_bytes = 0

    def start(self, head: bytes, body: bytes, bodiless: bool) -> Response:
        """Send one request; the previous response must be complete. `bodiless`: the answer has no body (HEAD)."""
        self._begin_exchange(bodiless)
        self._response = response = Response(self)
        if len(body) <= HIGH_WATER_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        return response

    def usable(self) -> bool:
        return not self._transport.is_closing()

    def abort(self) -> None:
        """Close the socket now, without flushing."""
        self._owner.unusable(self)
        self._transport.abort()

    def fail(self, error: EngineError) -> None:
        """End the response in progress, if any, with `error`, and close the socket."""
        response, self._response = self._response, None
        if response is not None:
            response.end(error)
        self.abort()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            self.abort()  # an answer that nobody asked for
            return
        self.untouched = False
        self._overhead_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as exc:
            if not self._complete:
                self.fail(_malformed(exc))
                return
            self._keep_alive = False
        if self._complete:
            self._finish(response)
        else:
            self._after_segment(response)

    def _after_segment(self, response: Response) -> None:
        if self._overhead_bytes > self._max_head_bytes:
            self.fail(_too_large(self._max_head_bytes))
            return
        response.wake()
        if response.unread > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _finish(self, response: Response) -> None:
        self._response = None
        response.end()
        self.resume()
        if self._keep_alive and self._transport.get_write_buffer_size() == 0 and self.usable():
            self._owner.finished(self)
        else:
            self.abort()

    def eof_received(self) -> None:
        self._owner.unusable(self)
        response = self._response
        if response is not None and response.ended_by_eof():
            self._keep_alive = False
            self._finish(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.lost(self)
        response, self._response = self._response, None
        if response is None:
            return
        when = "in the middle of its answer" if response.status else "before it answered"
        error = EngineDied(f"the engine closed the connection {when}" + (f": {exc}" if exc else ""))
        error.__cause__ = exc
        response.end(error)

    # llhttp calls these

    def on_message_begin(self) -> None:
        if self._complete:
            raise EngineProtocolError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._max_head_bytes:
            raise _too_large(self._max_head_bytes)
        self._head.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        head, self._head = self._head, []
        if status < 200:
            return
        response = self._response
        assert response is not None
        response.status = status
        response.headers = head
        if self._bodiless:
            self._complete = True  # llhttp expects a body here, so its state is of no further use
        else:
            self._keep_alive = self._parser.should_keep_alive()

    def on_body(self, payload: bytes) -> None:
        self._overhead_bytes = 0
        if self._response is not None and not self._bodiless:
            self._response.add(payload)

    def on_message_complete(self) -> None:
        if self._response is not None and self._response.status:
            self._complete = True


def _too_large(limit: int) -> EngineProtocolError:
    return EngineProtocolError(f"the engine sent more than {limit} bytes of headers or framing without payload")


def _malformed(exc: Exception) -> EngineProtocolError:
    if isinstance(exc, HttpParserCallbackError) and isinstance(exc.__context__, EngineProtocolError):
        return exc.__context__
    error = EngineProtocolError(f"the engine's answer is not valid HTTP/1.1: {exc}")
    error.__cause__ = exc
    return error
