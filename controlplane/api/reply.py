"""Writes one response on the ASGI wire: plain, or an event stream that may begin while the call still waits.

Bytes pass as they came. Framing and keep-alive are the server's business.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from controlplane.api.errors import Headers, error_body, error_event, retry_headers
from controlplane.errors import RequestRejected

Message = MutableMapping[str, Any]
Scope = Mapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

JSON_TYPE = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"


class Reply:
    """One response; `request_id` None before the call was accepted."""

    def __init__(self, send: Send, request_id: str | None = None) -> None:
        self._send = send
        self._id: Headers = [(b"x-request-id", request_id.encode())] if request_id else []
        self.started = False
        self.ended = False

    async def whole(
        self, status: int, body: bytes, content_type: bytes = JSON_TYPE, extra: Headers | None = None
    ) -> None:
        await self._begin(status, content_type, [(b"content-length", str(len(body)).encode()), *(extra or [])])
        await self._last(body)

    async def begin_stream(self, content_type: bytes) -> None:
        # x-accel-buffering: a proxy in front must not collect tokens.
        await self._begin(200, content_type, [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")])

    def chunk(self, body: bytes) -> Awaitable[None]:
        return self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def comment(self, text: str) -> None:
        """A line that SSE clients skip; begins the stream when nothing was sent yet."""
        if not self.started:
            await self.begin_stream(EVENT_STREAM)
        await self.chunk(b": " + text.replace("\n", " ").encode() + b"\n\n")

    def end(self) -> Awaitable[None]:
        return self._last(b"")

    async def error(self, rejection: RequestRejected, body: bytes | None = None) -> None:
        """An error response with `body` or OpenAI's; an error event where the stream has begun."""
        if self.started:
            await self._last(error_event(rejection.error))
        else:
            content = error_body(rejection.error) if body is None else body
            await self.whole(rejection.error.status, content, extra=retry_headers(rejection))

    def _begin(self, status: int, content_type: bytes, extra: Headers) -> Awaitable[None]:
        self.started = True
        headers = [(b"content-type", content_type), *self._id, *extra]
        return self._send({"type": "http.response.start", "status": status, "headers": headers})

    def _last(self, body: bytes) -> Awaitable[None]:
        self.ended = True
        return self._send({"type": "http.response.body", "body": body})
