"""A load generator that costs little itself: keep-alive connections as bare asyncio protocols.

Knows chat completions on HTTP/1.1, whole and streamed. It measures and counts; it judges nothing.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import orjson
from httptools import HttpResponseParser

# What a chat stream holds beside its tokens: the role, the reason it ended, [DONE].
_FRAME_EVENTS = 3


class WrongAnswer(Exception):
    """An answer was not what was asked for, so that its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to send: a TCP port of this host or a unix socket, and the key to send along."""

    port: int | None = None
    uds: str | None = None
    key: str | None = None

    def request(self, tokens: int, *, stream: bool) -> bytes:
        """One chat completion of exactly `tokens` tokens, on the wire."""
        content = "Tell me about the sea, its tides and its colours at dusk. " * 8
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
        asked = {"model": "bench", "messages": messages, "max_tokens": tokens, "stream": stream}
        body = orjson.dumps(asked)
        key = f"authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: bench\r\naccept: */*\r\n"
            f"content-type: application/json\r\n{key}content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds from the moment a request was sent."""

    first_seconds: float
    whole_seconds: float


class Wire(asyncio.Protocol):
    """One connection; one request at a time. `on_end` is called when an answer is complete."""

    def __init__(self) -> None:
        self.on_end: Callable[[Wire], None] = lambda _: None
        self.first_at = 0.0
        self.newlines = 0
        self.failure = ""
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport

    def ask(self, request: bytes) -> None:
        self.first_at = 0.0
        self.newlines = 0
        self._transport.write(request)

    @property
    def tokens(self) -> int:
        """Of the streamed answer so far; every event ends with an empty line and holds no other line break."""
        return max(0, self.newlines // 2 - _FRAME_EVENTS)

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.failure = self.failure or f"the connection was closed: {exc}"

    # llhttp calls these

    def on_body(self, body: bytes) -> None:
        if not self.first_at:
            self.first_at = time.perf_counter()
        self.newlines += body.count(b"\n")

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            self.failure = f"status {self._parser.get_status_code()}"
        self.on_end(self)


def check(wires: list[Wire]) -> None:
    """Close all. Raises WrongAnswer when any of them was refused or lost."""
    failures = [wire.failure for wire in wires if wire.failure]
    for wire in wires:
        wire.close()
    if failures:
        raise WrongAnswer(f"{len(failures)} of {len(wires)} connections failed; one of them: {failures[0]}")


async def connect(address: Address) -> Wire:
    loop = asyncio.get_running_loop()
    if address.uds is not None:
        return (await loop.create_unix_connection(Wire, address.uds))[1]
    return (await loop.create_connection(Wire, "127.0.0.1", address.port))[1]


class ClosedLoop:
    """Every connection sends its next request as soon as the last answer is in."""

    def __init__(self, wires: list[Wire], request: bytes) -> None:
        self.completed = 0
        self._request = request
        self._wires = wires

    def start(self) -> None:
        for wire in self._wires:
            wire.on_end = self._again
            wire.ask(self._request)

    def stop(self) -> None:
        """Raises WrongAnswer when a connection failed on the way."""
        check(self._wires)

    def _again(self, wire: Wire) -> None:
        self.completed += 1
        if not wire.failure:
            wire.ask(self._request)


class Streams:
    """Many paced streams at once; `tokens` counts what has arrived on all of them."""

    def __init__(self, wires: list[Wire], request: bytes, tokens_each: int) -> None:
        self._wires = wires
        self._request = request
        self._tokens_each = tokens_each
        self._left = len(wires)
        self._all_ended = asyncio.Event()

    @property
    def tokens(self) -> int:
        return sum(wire.tokens for wire in self._wires)

    async def start(self, over_seconds: float) -> None:
        """Start one after the other, so that their tokens do not come in step."""
        for wire in self._wires:
            wire.on_end = self._ended
            wire.ask(self._request)
            await asyncio.sleep(over_seconds / len(self._wires))

    async def end(self, limit_seconds: float) -> None:
        """Raises WrongAnswer unless every stream brought every token."""
        async with asyncio.timeout(limit_seconds):
            await self._all_ended.wait()
        short = sum(wire.tokens != self._tokens_each for wire in self._wires)
        check(self._wires)
        if short:
            raise WrongAnswer(f"{short} of {len(self._wires)} streams did not bring {self._tokens_each} tokens")

    def _ended(self, _: Wire) -> None:
        self._left -= 1
        if not self._left:
            self._all_ended.set()


async def open_loop(address: Address, request: bytes, per_second: float, seconds: float) -> list[Timing]:
    """Requests at a steady rate, whatever the answers do; waiting for a free connection never delays one."""
    loop = asyncio.get_running_loop()
    idle: list[Wire] = [await connect(address) for _ in range(4)]
    wires = list(idle)
    timings: list[Timing] = []
    count = int(per_second * seconds)
    done = loop.create_future()

    def ended(wire: Wire, sent_at: float) -> None:
        timings.append(Timing(wire.first_at - sent_at, time.perf_counter() - sent_at))
        idle.append(wire)
        if len(timings) == count:
            done.set_result(None)

    begin = loop.time()
    for n in range(count):
        due = begin + n / per_second
        await asyncio.sleep(due - loop.time())
        if not idle:
            wires.append(await connect(address))
            idle.append(wires[-1])
        sent_at = time.perf_counter()
        wire = idle.pop()
        wire.on_end = lambda wire, sent_at=sent_at: ended(wire, sent_at)
        wire.ask(request)
    async with asyncio.timeout(30):
        await done
    check(wires)
    return timings
