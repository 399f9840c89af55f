"""What a client library costs on the way to an engine: ours beside aiohttp and httpx, in one interleaved run.

Each client is a process of its own on core 0, the simulated engine is on core 1. CPU is the client's alone, by
schedstat; the median round counts. The result stands in docs/decisions/0002-relay.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable

import aiohttp
import httpx
import uvloop

from adapters.endpoint import Endpoint
from adapters.http1 import Pool
from benchmarks.cpu import session_seconds

PATH = "/v1/chat/completions"
WHOLE = b'{"model":"sim","messages":[{"role":"user","content":"What is the capital of France?"}],"max_tokens":16}'
STREAM = WHOLE.replace(b"16}", b'%d,"stream":true}')
HEADERS = {"content-type": "application/json", "x-request-id": "bench"}
CONNECTIONS = 32
STREAMS = 100
TOKENS = 150

Fetch = Callable[[bytes], Awaitable[int]]  # sends one body, reads the answer piece by piece, gives its size


async def _ours(port: int, work: Callable[[Fetch], Awaitable[None]]) -> None:
    pool = Pool(Endpoint.tcp("127.0.0.1", port))
    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def fetch(body: bytes) -> int:
        size = 0
        with await pool.send("POST", PATH, headers, body) as response:
            while (chunk := await response.next_chunk()) is not None:
                size += len(chunk)
        return size

    await work(fetch)
    pool.close()


async def _aiohttp(port: int, work: Callable[[Fetch], Awaitable[None]]) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as session:

        async def fetch(body: bytes) -> int:
            size = 0
            async with session.post(PATH, data=body, headers=HEADERS) as response:
                async for chunk in response.content.iter_any():
                    size += len(chunk)
            return size

        await work(fetch)


async def _httpx(port: int, work: Callable[[Fetch], Awaitable[None]]) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=600) as client:

        async def fetch(body: bytes) -> int:
            size = 0
            async with client.stream("POST", PATH, content=body, headers=HEADERS) as response:
                async for chunk in response.aiter_raw():
                    size += len(chunk)
            return size

        await work(fetch)


CLIENTS = {"ours": _ours, "aiohttp": _aiohttp, "httpx": _httpx}


async def _requests(fetch: Fetch, count: int) -> float:
    """CPU microseconds for each of `count` whole answers, over 32 connections."""

    async def loop(times: int) -> None:
        for _ in range(times):
            await fetch(WHOLE)

    await asyncio.gather(*(loop(5) for _ in range(CONNECTIONS)))
    before = session_seconds(os.getpid())
    await asyncio.gather(*(loop(count // CONNECTIONS) for _ in range(CONNECTIONS)))
    return (session_seconds(os.getpid()) - before) / (count // CONNECTIONS * CONNECTIONS) * 1e6


async def _tokens(fetch: Fetch) -> float:
    """CPU microseconds for each token of 100 paced streams."""
    body = STREAM % TOKENS
    before = session_seconds(os.getpid())
    sizes = await asyncio.gather(*(fetch(body) for _ in range(STREAMS)))
    if len(set(sizes)) != 1:
        raise SystemExit(f"the streams differ in size: {sorted(set(sizes))}")
    return (session_seconds(os.getpid()) - before) / (STREAMS * TOKENS) * 1e6


async def _client(name: str, whole_port: int, paced_port: int, count: int) -> None:
    async def whole(fetch: Fetch) -> None:
        print(f"request {await _requests(fetch, count)}")

    async def paced(fetch: Fetch) -> None:
        print(f"token {await _tokens(fetch)}")

    await CLIENTS[name](whole_port, whole)
    await CLIENTS[name](paced_port, paced)


def _engine(script: str) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "engines.simulated", "--port", "0", "--model", "sim", "--script", script]
    engine = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(engine.pid, {1})
    assert engine.stdout is not None
    for line in engine.stdout:
        if found := re.search(r"server on http://127.0.0.1:(\d+)", line):
            return engine, int(found[1])
    raise SystemExit("the simulated engine did not start")


def _round(name: str, ports: tuple[int, int], count: int) -> dict[str, float]:
    own = [sys.executable, "-m", "benchmarks.relay_clients", "--client", name, "--count", str(count)]
    command = ["taskset", "-c", "0", *own, "--ports", *map(str, ports)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines}


def _compare(rounds: int) -> None:
    whole, whole_port = _engine("{}")
    paced, paced_port = _engine('{"tokens_per_second": 50}')
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CLIENTS}
    try:
        for _ in range(rounds):
            for name, samples in results.items():
                samples.append(_round(name, (whole_port, paced_port), 2000 if name == "httpx" else 20000))
    finally:
        for engine in (whole, paced):
            engine.terminate()
            engine.wait()
    medians = {
        name: {what: statistics.median(sample[what] for sample in samples) for what in ("request", "token")}
        for name, samples in results.items()
    }
    print("| client | CPU us/request | x ours | CPU us/token | x ours |\n|---|---|---|---|---|")
    for name, median in medians.items():
        request, token = median["request"], median["token"]
        of_ours = medians["ours"]
        print(
            f"| {name} | {request:.1f} | {request / of_ours['request']:.1f} "
            f"| {token:.1f} | {token / of_ours['token']:.1f} |"
        )


def main() -> None:
    """Compare all clients, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--client", choices=CLIENTS)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--ports", type=int, nargs=2)
    arguments = parser.parse_args()
    if arguments.client is None:
        _compare(arguments.rounds)
    else:
        whole_port, paced_port = arguments.ports
        uvloop.run(_client(arguments.client, whole_port, paced_port, arguments.count))


if __name__ == "__main__":
    main()
