"""The server's side of one HTTP/1.1 connection: requests in, one answer at a time out.

Bare asyncio and llhttp, for a benchmark's upstream must cost next to nothing. What a request means is not its business.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qs, unquote

import orjson
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


class Request:
    """One whole request. Header names are in lower case."""

    __slots__ = ("body", "headers", "keep_alive", "method", "path", "query")

    def __init__(self) -> None:
        self.method = ""
        self.path = ""
        self.query: dict[str, str] = {}
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.keep_alive = True


class Site:
    """What all connections of one server share."""

    answer: Callable[[Request, Connection], None]

    def __init__(self, keep_alive_seconds: float) -> None:
        self.keep_alive_seconds = keep_alive_seconds
        self.connections: set[Connection] = set()
        self.in_flight = 0
        self.empty = asyncio.Event()  # there is no connection
        self.empty.set()
        self.closing = False

    def close_idle(self) -> None:
        """From now on keep no connection that has no request in flight."""
        self.closing = True
        for connection in list(self.connections):
            connection.close_if_idle()


class Connection(asyncio.Protocol):
    """Parses requests and frames answers. `on_gone` is called when the client leaves before its answer is complete."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._parser = HttpRequestParser(self)
        self._queue: deque[Request] = deque()  # pipelined requests
        self._current: Request | None = None
        self._next = Request()
        self._url = b""
        self._parts: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport
        self.on_gone: Callable[[], None] | None = None

    # answers

    def json(self, status: int, content: object, headers: bytes = b"") -> None:
        """A whole JSON answer; `headers` are complete lines."""
        self.whole(status, b"application/json", orjson.dumps(content), headers)

    def whole(self, status: int, kind: bytes, body: bytes, headers: bytes = b"") -> None:
        """A whole answer of any content type; nothing where the client has gone."""
        if self._current is None:
            return
        head = b"%scontent-type: %s\r\ncontent-length: %d\r\n%s\r\n" % (
            _STATUS_LINES[status],
            kind,
            len(body),
            headers + self._connection_header(),
        )
        self._transport.write(head + body)
        self._answered()

    def begin_events(self) -> None:
        """The head of a stream of server-sent events."""
        head = b"%scontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n%s\r\n"
        self._transport.write(head % (_STATUS_LINES[200], self._connection_header()))

    def events(self, *events: bytes) -> None:
        """One or more complete events, each a chunk of its own, as vLLM sends them."""
        self._transport.write(b"".join([b"%x\r\n%s\r\n" % (len(event), event) for event in events]))

    def end_events(self) -> None:
        """The end of the stream."""
        self._transport.write(b"0\r\n\r\n")
        self._answered()

    def close_if_idle(self) -> None:
        if self._current is None:
            self._transport.close()

    def _connection_header(self) -> bytes:
        kept = self._current is not None and self._current.keep_alive and not self._site.closing
        return b"" if kept else b"connection: close\r\n"

    def _answered(self) -> None:
        current, self._current = self._current, None
        self.on_gone = None
        self._site.in_flight -= 1
        if current is None or not current.keep_alive or self._site.closing:
            self._transport.close()
        elif self._queue:
            self._serve(self._queue.popleft())
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._site.keep_alive_seconds, self.close_if_idle)

    def _serve(self, request: Request) -> None:
        self._current = request
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._site.in_flight += 1
        self._site.answer(request, self)

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._site.connections.add(self)
        self._site.empty.clear()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            if self._current is None:
                self._transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._site.connections.discard(self)
        if not self._site.connections:
            self._site.empty.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._current is not None:
            self._current = None
            self._site.in_flight -= 1
            if self.on_gone is not None:
                self.on_gone()
                self.on_gone = None

    # llhttp calls these

    def on_message_begin(self) -> None:
        self._next = Request()
        self._url = b""
        self._parts = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._next.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        request = self._next
        request.method = self._parser.get_method().decode()
        request.keep_alive = self._parser.should_keep_alive()
        path, _, query = self._url.partition(b"?")
        request.path = unquote(path.decode("latin-1"))
        if query:
            request.query = {name: values[-1] for name, values in parse_qs(query.decode("latin-1")).items()}
        if b"expect" in request.headers:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        request = self._next
        request.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self._current is None:
            self._serve(request)
        else:
            self._queue.append(request)
