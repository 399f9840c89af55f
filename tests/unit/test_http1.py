"""One exchange: what is sent, and how every kind of answer is read, against scripted servers on real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path

import pytest
from raw_engine import (
    CHUNKED,
    OK,
    Peer,
    Run,
    answer_forever,
    engine,
    fetch,
    hang_mid_stream,
    never_answer,
    on_both_loops,
    read_exactly,
    watched,
)

from adapters.endpoint import Endpoint
from adapters.errors import EngineDied, EngineProtocolError, EngineTimeout
from adapters.http1 import Pool, Response
from adapters.http1.connection import HIGH_WATER_BYTES

pytestmark = on_both_loops


@pytest.mark.parametrize(
    ("method", "reply", "status", "payload", "kept"),
    [
        ("POST", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc", True),
        ("POST", CHUNKED + b"1;x=y\r\na\r\n2\r\nbc\r\n0\r\nx-sum: 9\r\n\r\n", 200, b"abc", True),
        ("POST", b"HTTP/1.1 200 OK\r\n\r\nabc", 200, b"abc", False),
        ("POST", b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc", 200, b"abc", False),
        ("POST", b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc", False),
        ("POST", b"HTTP/1.1 200 OK\r\nconnection: close\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc", False),
        ("POST", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 P\r\na: b\r\n\r\n" + OK, 200, b"ok", True),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, b"", True),
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", 200, b"", False),
        ("POST", OK + OK, 200, b"ok", False),
        ("POST", OK + b"garbage", 200, b"ok", False),
    ],
    ids=["length", "chunked", "eof", "eof-te", "http10", "close", "1xx", "204", "304", "head", "twice", "garbage"],
)
def test_every_framing(run: Run, method: str, reply: bytes, status: int, payload: bytes, kept: bool) -> None:
    """Each way to end a body is understood, and the connection is kept exactly where that is safe."""

    async def once(peer: Peer) -> None:
        await peer.request()
        peer.write(reply)
        if kept:
            await peer.closed()
        elif b"\r\n\r\nabc" in reply and b"ength" not in reply:
            peer.writer.write_eof()

    async def scenario() -> None:
        async with engine(once) as endpoint:
            pool = Pool(endpoint)
            response = await pool.send(method, "/")
            assert (response.status, await response.read(100)) == (status, payload)
            assert b"a" not in dict(response.headers), "a header of the interim answer came through"
            assert pool.idle_connections == (1 if kept else 0)
            pool.close()

    run(scenario())


def test_request_bytes(run: Run, tmp_path: Path) -> None:
    """The engine gets one Host, our framing only, and the caller's other headers and body untouched."""

    async def check(peer: Peer) -> None:
        head, body = await peer.request()
        assert head == (
            b"POST /v1/chat?x=1 HTTP/1.1\r\nhost: localhost\r\nX-Request-Id: a b\r\ncontent-length: 4\r\n\r\n"
        )
        assert body == b"\x00\r\n\xff"
        peer.write(OK)

    async def scenario(path: Path) -> None:
        async with engine(check, uds=path) as endpoint:
            pool = Pool(endpoint)
            headers = [(b"Host", b"evil"), (b"X-Request-Id", b"a b"), (b"Content-Length", b"0"), (b"te", b"trailers")]
            headers += [(b"transfer-encoding", b"chunked"), (b"Connection", b"close"), (b"expect", b"100-continue")]
            response = await pool.send("POST", b"/v1/chat?x=1", headers, b"\x00\r\n\xff")
            assert await response.read(2) == b"ok"
            pool.close()

    run(scenario(tmp_path / "e.sock"))


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("POST", "/", [(b"a", b"b\r\nc: d")]),
        ("POST", "/", [(b"a\n", b"b")]),
        ("POST", "/ HTTP/1.1\r\nx: y", []),
        ("POST", "/a b", []),
        ("PO ST", "/", []),
    ],
)
def test_a_field_cannot_smuggle(run: Run, method: str, target: str, headers: list[tuple[bytes, bytes]]) -> None:
    """A line break or space inside a field is refused before anything is sent."""

    async def scenario() -> None:
        pool = Pool(Endpoint.tcp("127.0.0.1", 1))
        with pytest.raises(ValueError, match="cannot encode"):
            await pool.send(method, target, headers)

    run(scenario())


def test_tokens_arrive_one_by_one(run: Run) -> None:
    """No token is held back: the engine sends the next one only after the client has read the one before."""
    seen = asyncio.Semaphore(1)

    async def paced(peer: Peer) -> None:
        await peer.request()
        peer.write(CHUNKED)
        for n in range(20):
            await seen.acquire()
            peer.write(b"7\r\ntok %03d\r\n" % n)
        await seen.acquire()
        peer.write(b"0\r\n\r\n")
        await peer.closed()

    async def scenario() -> None:
        async with engine(paced) as endpoint:
            pool = Pool(endpoint)
            response = await pool.send("POST", "/")
            got = []
            while (chunk := await response.next_chunk()) is not None:
                got.append(chunk)
                seen.release()
            assert got == [b"tok %03d" % n for n in range(20)]
            pool.close()

    run(scenario())


@pytest.mark.parametrize(
    ("reply", "before"),
    [
        (b"", None),
        (b"HTTP/1.1 200 OK\r\ncontent-le", None),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", b"abc"),
        (CHUNKED + b"3\r\nabc\r\n5\r\nde", b"abcde"),
        (CHUNKED + b"3\r\nabc\r\n", b"abc"),
    ],
    ids=["nothing", "head", "length", "chunk", "no-last-chunk"],
)
@pytest.mark.parametrize("half", [False, True], ids=["closed", "half-closed"])
def test_a_truncated_answer_is_no_answer(run: Run, reply: bytes, before: bytes | None, half: bool) -> None:
    """What came before the loss is handed out, then `EngineDied`; never a clean end, never a second attempt."""
    connections = 0

    async def cut(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.request()
        peer.write(reply)
        if half:
            peer.writer.write_eof()
            await peer.closed()

    async def scenario() -> None:
        async with engine(cut) as endpoint:
            pool = Pool(endpoint)
            if before is None:
                with pytest.raises(EngineDied, match="before it answered"):
                    await pool.send("POST", "/", [], b"x")
            else:
                response = await pool.send("POST", "/", [], b"x")
                assert await read_exactly(response, len(before)) == before
                with pytest.raises(EngineDied, match="in the middle"):
                    await response.next_chunk()
            assert connections == 1
            assert pool.idle_connections == 0
            pool.close()

    run(scenario())


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"hello\r\n\r\n", "not valid"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", "not valid"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc", "not valid"),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "not valid"),
        (CHUNKED + b"zz\r\n", "not valid"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 5000, "more than 4096 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000 + b"\r\n", "more than 4096 bytes"),
        (CHUNKED + b"1\r\na\r\n0\r\n" + b"x: y\r\n" * 1000 + b"\r\n", "more than 4096 bytes"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, "more than 4096 bytes"),
    ],
    ids=["garbage", "both", "two-lengths", "101", "chunk-size", "long-line", "many-headers", "trailers", "1xx-flood"],
)
def test_malformed(run: Run, reply: bytes, message: str) -> None:
    """A reply that is not HTTP, or that never stops framing, is a protocol error and costs the connection."""

    async def bad(peer: Peer) -> None:
        await peer.request()
        peer.write(reply)
        await peer.closed()

    async def scenario() -> None:
        async with engine(bad) as endpoint:
            pool = Pool(endpoint, max_head_bytes=4096)
            with pytest.raises(EngineProtocolError, match=message):
                await fetch(pool)
            assert pool.idle_connections == 0
            pool.close()

    run(scenario())


def test_a_slow_reader_bounds_memory(run: Run) -> None:
    """While nobody reads, the engine's writes stall and we hold little; then everything arrives intact."""
    block, blocks = b"10000\r\n" + bytes(65536) + b"\r\n", 1024
    stalled = asyncio.Event()

    async def flood(peer: Peer) -> None:
        await peer.request()
        peer.write(CHUNKED)
        for _ in range(blocks):
            peer.write(block)
            try:
                await asyncio.wait_for(peer.writer.drain(), 0.5)
            except TimeoutError:
                stalled.set()
                await peer.writer.drain()
        peer.write(b"0\r\n\r\n")
        await peer.closed()

    async def scenario() -> None:
        async with engine(flood) as endpoint:
            pool = Pool(endpoint)
            response = await pool.send("POST", "/")
            await stalled.wait()
            assert response.unread <= HIGH_WATER_BYTES + 512 * 1024
            size = 0
            while (chunk := await response.next_chunk()) is not None:
                size += len(chunk)
            assert size == 65536 * blocks
            assert pool.idle_connections == 1
            pool.close()

    run(scenario())


def test_time_limits(run: Run) -> None:
    """No head, or no end of the body, within the time given: `EngineTimeout`, and the connection is closed."""
    silent, silent_closed = watched(never_answer)
    slow, slow_closed = watched(hang_mid_stream)

    async def scenario() -> None:
        async with engine(silent, slow) as endpoint:
            pool = Pool(endpoint)
            with pytest.raises(EngineTimeout, match=r"did not answer within 0\.05 s"):
                await pool.send("POST", "/", timeout_seconds=0.05)
            await silent_closed.wait()
            response = await pool.send("POST", "/")
            with pytest.raises(EngineTimeout, match="not complete"):
                await response.read(100, timeout_seconds=0.05)
            await slow_closed.wait()
            pool.close()

    run(scenario())


def test_read_has_a_limit(run: Run) -> None:
    """A body larger than the caller's limit is an error and closes the connection."""

    async def scenario() -> None:
        async with engine(answer_forever) as endpoint:
            pool = Pool(endpoint)
            response: Response = await pool.send("POST", "/")
            with pytest.raises(EngineProtocolError, match="larger than 1 bytes"):
                await response.read(1)
            pool.close()

    run(scenario())


def test_a_large_upload_arrives_whole(run: Run) -> None:
    """An 8 MiB body reaches the engine byte for byte."""
    body = random.Random(1).randbytes(8 << 20)

    async def check(peer: Peer) -> None:
        _, got = await peer.request()
        assert hashlib.sha256(got).digest() == hashlib.sha256(body).digest()
        peer.write(OK)
        await peer.closed()

    async def scenario() -> None:
        async with engine(check) as endpoint:
            pool = Pool(endpoint)
            assert await fetch(pool, body) == b"ok"
            pool.close()

    run(scenario())


def test_an_early_answer_to_a_large_upload(run: Run) -> None:
    """An engine that answers before it has read the body is heard, and its connection is not used again."""

    async def refuse(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with engine(refuse) as endpoint:
            pool = Pool(endpoint)
            response = await pool.send("POST", "/", [], bytes(64 << 20))
            assert (response.status, await response.read(10)) == (413, b"no")
            assert pool.idle_connections == 0
            pool.close()

    run(scenario())
