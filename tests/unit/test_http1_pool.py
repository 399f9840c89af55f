"""Connections: kept, replaced, bounded, cancelled and closed, against scripted servers on real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from pathlib import Path

import pytest
from raw_engine import (
    CHUNKED,
    OK,
    Peer,
    Run,
    answer_forever,
    answer_once,
    engine,
    fetch,
    hang_mid_stream,
    on_both_loops,
    watched,
)

from adapters.endpoint import Endpoint
from adapters.errors import EngineDied, EngineUnreachable
from adapters.http1 import Pool

pytestmark = on_both_loops


def test_a_stale_connection_is_replaced_once(run: Run) -> None:
    """A kept connection that turns out closed costs nothing: the request goes over a fresh one, once."""
    served = []

    async def first(peer: Peer) -> None:
        served.append(await peer.request())
        peer.write(OK)
        await peer.request()  # and closes without a byte of an answer

    async def second(peer: Peer) -> None:
        served.append(await peer.request())
        peer.write(OK)
        await peer.closed()

    async def scenario() -> None:
        async with engine(first, second) as endpoint:
            pool = Pool(endpoint)
            assert await fetch(pool, b"1") == b"ok"
            assert await fetch(pool, b"2") == b"ok"
            assert [body for _, body in served] == [b"1", b"2"]
            pool.close()

    run(scenario())


@pytest.mark.parametrize("partial", [b"", b"HTTP/1.1 2"], ids=["too-late", "after-a-byte"])
def test_a_request_at_work_is_not_sent_twice(run: Run, partial: bytes) -> None:
    """A kept connection lost after the engine began to answer, or after the stale window, is not retried."""
    connections = 0

    async def die_on_second(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.request()
        peer.write(OK)
        await peer.request()
        peer.write(partial)

    async def scenario() -> None:
        async with engine(die_on_second) as endpoint:
            pool = Pool(endpoint, stale_window_seconds=60 if partial else 0)
            assert await fetch(pool) == b"ok"
            with pytest.raises(EngineDied):
                await fetch(pool)
            assert connections == 1
            pool.close()

    run(scenario())


def test_stale_and_then_refused_is_not_safe_to_retry(run: Run, tmp_path: Path) -> None:
    """When the fresh connection fails too, the error says that the request may have been delivered."""

    path = tmp_path / "e.sock"

    async def vanish(peer: Peer) -> None:
        await peer.request()
        peer.write(OK)
        await peer.request()
        path.unlink()

    async def scenario() -> None:
        async with engine(vanish, uds=path) as endpoint:
            pool = Pool(endpoint)
            assert await fetch(pool) == b"ok"
            with pytest.raises(EngineDied, match="a new one failed"):
                await fetch(pool)
            with pytest.raises(EngineUnreachable, match="cannot connect to unix:"):
                await fetch(pool)

    run(scenario())


def test_an_idle_connection_is_closed_before_the_engine_would(run: Run) -> None:
    """An idle connection is closed by us after the keep-alive time, without another request having to come."""
    gone = asyncio.Event()

    async def first(peer: Peer) -> None:
        await peer.request()
        peer.write(OK)
        await peer.closed()
        gone.set()

    async def scenario() -> None:
        async with engine(first, answer_forever) as endpoint:
            pool = Pool(endpoint, keepalive_seconds=0.05)
            assert await fetch(pool) == b"ok"
            await gone.wait()
            assert pool.idle_connections == 0
            assert await fetch(pool) == b"ok"
            pool.close()

    run(scenario())


def test_idle_connections_are_reused_and_bounded(run: Run) -> None:
    """Twenty requests one after the other use one connection; after twenty at once at most `max_idle` stay."""
    connections = 0

    async def count(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await answer_forever(peer)

    async def scenario() -> None:
        async with engine(count) as endpoint:
            pool = Pool(endpoint, max_idle=3)
            for _ in range(20):
                assert await fetch(pool) == b"ok"
            assert connections == 1
            await asyncio.gather(*(fetch(pool) for _ in range(20)))
            assert pool.idle_connections == 3
            pool.close()
            assert pool.idle_connections == 0

    run(scenario())


def test_an_answer_nobody_asked_for_costs_the_connection(run: Run) -> None:
    """Bytes that come on an idle connection never pass for the answer to the next request."""
    idle = asyncio.Event()

    async def chatty(peer: Peer) -> None:
        await peer.request()
        peer.write(OK)
        await idle.wait()
        peer.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        await peer.closed()

    script, closed = watched(chatty)

    async def scenario() -> None:
        async with engine(script, answer_forever) as endpoint:
            pool = Pool(endpoint, keepalive_seconds=60)
            assert await fetch(pool) == b"ok"
            idle.set()
            await closed.wait()
            assert pool.idle_connections == 0
            assert await fetch(pool) == b"ok"
            pool.close()

    run(scenario())


def test_unreachable(run: Run, tmp_path: Path) -> None:
    """A refused port, a missing socket and a full backlog are all `EngineUnreachable`, and name the endpoint."""

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
            port = deaf.getsockname()[1]
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:
                filler.settimeout(0)
                filler.connect_ex(("127.0.0.1", port))
            with pytest.raises(EngineUnreachable, match=r"no answer within 0\.1 s"):
                await fetch(Pool(Endpoint.tcp("127.0.0.1", port), connect_timeout_seconds=0.1))
            for filler in fillers:
                filler.close()
        with pytest.raises(EngineUnreachable, match=f"http://127.0.0.1:{port}"):
            await fetch(Pool(Endpoint.tcp("127.0.0.1", port)))
        with pytest.raises(EngineUnreachable, match=r"none\.sock"):
            await fetch(Pool(Endpoint.unix(str(tmp_path / "none.sock"))))

    run(scenario())


def test_a_hundred_at_once_are_not_mixed_up(run: Run) -> None:
    """A hundred concurrent requests, answered in random order and interleaved, each get their own answer; twice."""
    rounds = asyncio.Barrier(100)
    order = random.Random(7)

    async def interleaved(peer: Peer) -> None:
        while True:
            _, body = await peer.request()
            digest = hashlib.sha256(body).hexdigest().encode()
            await rounds.wait()
            peer.write(CHUNKED)
            for n in range(0, 64, 8):
                peer.write(b"8\r\n" + digest[n : n + 8] + b"\r\n")
                for _ in range(order.randrange(5)):
                    await asyncio.sleep(0)
            peer.write(b"0\r\n\r\n")

    async def scenario() -> None:
        async with engine(interleaved) as endpoint:
            pool = Pool(endpoint)
            for batch in range(2):
                bodies = [b"request %d of batch %d" % (n, batch) for n in range(100)]
                answers = await asyncio.gather(*(fetch(pool, body) for body in bodies))
                assert answers == [hashlib.sha256(body).hexdigest().encode() for body in bodies]
            assert pool.idle_connections == 100
            pool.close()

    run(scenario())


def test_closing_a_response_cancels_it_in_the_engine(run: Run) -> None:
    """`Response.close()` in mid-stream closes the connection, and a reader that waits is told."""
    script, closed = watched(hang_mid_stream)

    async def scenario() -> None:
        async with engine(script) as endpoint:
            pool = Pool(endpoint)
            response = await pool.send("POST", "/")
            assert await response.next_chunk() == b"a"
            reader = asyncio.create_task(response.next_chunk())
            await asyncio.sleep(0)
            response.close()
            with pytest.raises(EngineDied, match="closed before its end"):
                await reader
            await closed.wait()
            assert pool.open_connections == 0

    run(scenario())


def test_cancelling_send_cancels_it_in_the_engine(run: Run) -> None:
    """A task that is cancelled while it waits for the head closes the connection."""

    async def scenario() -> None:
        arrived = asyncio.Event()

        async def arrive(peer: Peer) -> None:
            await peer.request()
            arrived.set()
            await peer.closed()

        script, closed = watched(arrive)
        async with engine(script) as endpoint:
            task = asyncio.create_task(Pool(endpoint).send("POST", "/"))
            await arrived.wait()
            task.cancel()
            await closed.wait()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(scenario())


def test_closing_the_pool_closes_everything_at_once(run: Run) -> None:
    """In flight or idle, every connection closes; readers get `EngineDied`; a later request is refused, unsent."""
    flying, flying_closed = watched(hang_mid_stream)
    resting, resting_closed = watched(answer_once)

    async def scenario() -> None:
        async with engine(flying, resting) as endpoint:
            pool = Pool(endpoint)
            response = await pool.send("POST", "/")
            assert await fetch(pool) == b"ok"
            assert (pool.open_connections, pool.idle_connections) == (2, 1)
            pool.close()
            await asyncio.gather(flying_closed.wait(), resting_closed.wait())
            assert await response.next_chunk() == b"a"
            with pytest.raises(EngineDied, match="were closed"):
                await response.next_chunk()
            with pytest.raises(EngineUnreachable, match="were closed"):
                await fetch(pool)
            assert pool.open_connections == 0

    run(scenario())
