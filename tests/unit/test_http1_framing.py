"""How a response is cut into segments never shows: a property over valid responses and all their splits."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import EngineDied
from adapters.http1.connection import Connection

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABC-", min_size=1, max_size=12).map(str.encode)
VALUE = st.text('abc ,;="/0123456789', max_size=20).map(lambda text: text.strip().encode())
OWN_NAMES = {b"content-length", b"transfer-encoding", b"connection", b"upgrade"}
HEADERS = st.lists(st.tuples(TOKEN, VALUE).filter(lambda header: header[0].lower() not in OWN_NAMES), max_size=5)
PARTS = st.lists(st.binary(min_size=1, max_size=200), max_size=8)


class Wire(asyncio.Transport):
    """A transport in memory: keeps what was written, and whether it was closed or paused."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        """Whole responses here are below the mark."""

    def resume_reading(self) -> None:
        """Never paused."""


class Owner:
    """Counts what the connection reports."""

    def __init__(self) -> None:
        self.reusable = 0

    def opened(self, connection: Connection) -> None:
        """Nothing to note."""

    def finished(self, connection: Connection) -> None:
        self.reusable += 1

    def unusable(self, connection: Connection) -> None:
        """Nothing to note."""

    def lost(self, connection: Connection) -> None:
        """Nothing to note."""


def lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, int, list[tuple[bytes, bytes]], bytes, str]:
    """(bytes on the wire, status, headers that belong to it, payload, framing)"""
    status = draw(st.sampled_from([200, 201, 400, 404, 500, 503]))
    headers, parts = draw(HEADERS), draw(PARTS)
    payload = b"".join(parts)
    framing = draw(st.sampled_from(["length", "chunked", "eof"]))
    if framing == "length":
        headers = [*headers, (b"Content-Length", b"%d" % len(payload))]
        body = payload
    elif framing == "chunked":
        headers = [*headers, (b"Transfer-Encoding", b"chunked")]
        extension = draw(st.sampled_from([b"", b";a=b", b';n="v"']))
        body = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts)
        body += b"0\r\n" + lines(draw(HEADERS)) + b"\r\n"
    else:
        body = payload
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n"]))
    wire = interim + b"HTTP/1.1 %d Any\r\n" % status + lines(headers) + b"\r\n" + body
    return wire, status, headers, payload, framing


def segments(data: st.DataObject, wire: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire) - 1), max_size=40)))
    edges = [0, *cuts, len(wire)]
    return [wire[start:end] for start, end in pairwise(edges)]


@settings(max_examples=400, deadline=None)
@given(responses(), st.data(), st.booleans())
def test_any_split_gives_the_same_response(
    response: tuple[bytes, int, list[tuple[bytes, bytes]], bytes, str], data: st.DataObject, read_between: bool
) -> None:
    """Status, headers, payload and end are the same for every split, whether the reader keeps up or comes late."""
    wire, status, headers, payload, framing = response

    async def scenario() -> None:
        owner = Owner()
        connection = Connection(owner, 65536)
        connection.connection_made(Wire())
        answer = connection.start(b"GET / HTTP/1.1\r\n\r\n", b"", bodiless=False)
        got = b""
        for segment in segments(data, wire):
            connection.data_received(segment)
            if read_between and answer.unread:
                got += await answer.next_chunk() or b""
        if framing == "eof":
            connection.eof_received()
        got += await answer.read(1 << 20)
        assert (answer.status, got) == (status, payload)
        assert answer.headers == [(name.lower(), value) for name, value in headers]
        assert owner.reusable == (framing != "eof")

    asyncio.run(scenario())


@settings(max_examples=300, deadline=None)
@given(responses().filter(lambda response: response[4] != "eof"), st.data())
def test_any_cut_is_noticed(
    response: tuple[bytes, int, list[tuple[bytes, bytes]], bytes, str], data: st.DataObject
) -> None:
    """A framed response that loses its last bytes never passes for complete; what came is a prefix of the payload."""
    wire, _, _, payload, _ = response
    kept = wire[: data.draw(st.integers(0, len(wire) - 1))]

    async def scenario() -> bytes:
        connection = Connection(Owner(), 65536)
        connection.connection_made(Wire())
        answer = connection.start(b"GET / HTTP/1.1\r\n\r\n", b"", bodiless=False)
        for segment in segments(data, kept) if len(kept) > 1 else [kept]:
            connection.data_received(segment)
        connection.eof_received()
        connection.connection_lost(None)
        got = b""
        try:
            while (chunk := await answer.next_chunk()) is not None:
                got += chunk
        except EngineDied:
            return got
        raise AssertionError("a cut response ended cleanly")

    assert payload.startswith(asyncio.run(scenario()))
