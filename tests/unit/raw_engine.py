"""A scripted raw HTTP server on a real socket: the engine's side of the client's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from adapters.endpoint import Endpoint
from adapters.http1 import Pool, Response

Run = Callable[[Coroutine[Any, Any, None]], None]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
# A hundred connect at once, and a busy machine accepts them late.
_BACKLOG = 256
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def _on(loop_factory: LoopFactory) -> Run:
    def run(scenario: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(asyncio.wait_for(scenario, 120))

    return run


# Every test of a module with this mark gets `run`, which runs a scenario for at most two minutes.
on_both_loops = pytest.mark.parametrize(
    "run", [_on(asyncio.new_event_loop), _on(uvloop.new_event_loop)], ids=["asyncio", "uvloop"]
)


class Peer:
    """The engine's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> tuple[bytes, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
        return head, await self.reader.readexactly(length[0] if length else 0)

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def closed(self) -> None:
        """Until the client has closed this connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


@asynccontextmanager
async def engine(*scripts: Callable[[Peer], Awaitable[None]], uds: Path | None = None) -> AsyncIterator[Endpoint]:
    """A server whose n-th connection follows the n-th script (the last one repeats), and is then closed."""
    count = 0
    peers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
    failures: list[AssertionError] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        script = scripts[min(count, len(scripts) - 1)]
        count += 1
        task = asyncio.current_task()
        assert task is not None
        peers[task] = writer
        try:
            await script(Peer(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except AssertionError as exc:
            failures.append(exc)
        finally:
            writer.close()
            del peers[task]

    if uds is not None:
        server = await asyncio.start_unix_server(serve, uds, backlog=_BACKLOG)
        endpoint = Endpoint.unix(str(uds))
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=_BACKLOG)
        endpoint = Endpoint.tcp("127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        yield endpoint
    finally:
        server.close()
        for task, writer in list(peers.items()):
            writer.transport.abort()
            task.cancel()
            await asyncio.wait([task])
    if failures:
        raise failures[0]


async def answer_forever(peer: Peer) -> None:
    while True:
        await peer.request()
        peer.write(OK)


async def fetch(pool: Pool, body: bytes = b"{}") -> bytes:
    response = await pool.send("POST", "/v1/x", [], body)
    return await response.read(1 << 20)


async def read_exactly(response: Response, size: int) -> bytes:
    got = b""
    while len(got) < size:
        got += await response.next_chunk() or b""
    return got


async def hang_mid_stream(peer: Peer) -> None:
    await peer.request()
    peer.write(CHUNKED + b"1\r\na\r\n")
    await peer.closed()


async def never_answer(peer: Peer) -> None:
    await peer.request()
    await peer.closed()


def watched(script: Callable[[Peer], Awaitable[None]]) -> tuple[Callable[[Peer], Awaitable[None]], asyncio.Event]:
    """The script, and an event for "the engine has seen this connection close"."""
    closed = asyncio.Event()

    async def watch(peer: Peer) -> None:
        await script(peer)
        closed.set()

    return watch, closed


async def answer_once(peer: Peer) -> None:
    await peer.request()
    peer.write(OK)
    await peer.closed()
