"""What the warm path costs: CPU per request and per token, and the delay it adds, beside nginx in the same run.

Everything is measured in interleaved rounds, and the median round counts, so that a busy machine shifts all rows
alike. Judges nothing: the table is the result.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from benchmarks import gateways
from benchmarks.cpu import pin, session_seconds
from benchmarks.gateways import TOKENS_PER_SECOND, Gateway
from benchmarks.load import ClosedLoop, Streams, Timing, connect, open_loop


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured in one round."""

    rounds: int
    seconds: float
    connections: int = 32
    requests_per_second: float = 100.0
    short_streams_per_second: float = 50.0
    short_stream_tokens: int = 20
    streams: int = 100


FULL = Extent(rounds=5, seconds=4.0)
QUICK = Extent(rounds=1, seconds=1.5)


@dataclass(frozen=True, slots=True)
class Sample:
    """One gateway in one round. CPU in microseconds, delays in milliseconds."""

    cpu_per_request: float
    requests_per_second: float
    cpu_per_token: float
    p50: float
    p99: float
    first_p50: float


async def measure(gateway: Gateway, extent: Extent) -> Sample:
    """One round of one gateway. Raises WrongAnswer when an answer was not what was asked for."""
    cpu_per_request, requests_per_second = await _requests(gateway, extent)
    whole = gateway.address.request(1, stream=False)
    stream = gateway.address.request(extent.short_stream_tokens, stream=True)
    answers = await open_loop(gateway.address, whole, extent.requests_per_second, extent.seconds)
    streams = await open_loop(gateway.address, stream, extent.short_streams_per_second, extent.seconds)
    return Sample(
        cpu_per_request=cpu_per_request,
        requests_per_second=requests_per_second,
        cpu_per_token=await _tokens(gateway, extent),
        p50=_percentile([t.whole_seconds for t in answers], 50),
        p99=_percentile([t.whole_seconds for t in answers], 99),
        first_p50=_first(streams),
    )


async def _requests(gateway: Gateway, extent: Extent) -> tuple[float, float]:
    wires = [await connect(gateway.address) for _ in range(extent.connections)]
    flow = ClosedLoop(wires, gateway.address.request(1, stream=False))
    flow.start()
    await asyncio.sleep(extent.seconds / 4)
    cpu, done = session_seconds(gateway.pid), flow.completed
    await asyncio.sleep(extent.seconds)
    cpu, done = session_seconds(gateway.pid) - cpu, flow.completed - done
    flow.stop()
    return cpu / done * 1e6, done / extent.seconds


async def _tokens(gateway: Gateway, extent: Extent) -> float:
    """Only the middle counts, when all streams run: their beginnings and ends are requests, not tokens."""
    tokens = int(TOKENS_PER_SECOND * (extent.seconds + 2))
    wires = [await connect(gateway.address) for _ in range(extent.streams)]
    flow = Streams(wires, gateway.address.request(tokens, stream=True), tokens)
    await flow.start(over_seconds=1.0)
    cpu, done = session_seconds(gateway.pid), flow.tokens
    await asyncio.sleep(extent.seconds)
    cpu, done = session_seconds(gateway.pid) - cpu, flow.tokens - done
    await flow.end(limit_seconds=extent.seconds + 30)
    return cpu / done * 1e6


def _first(timings: list[Timing]) -> float:
    return _percentile([t.first_seconds for t in timings], 50)


def _percentile(seconds: list[float], percent: int) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] * 1000


async def run(extent: Extent) -> dict[str, list[Sample]]:
    """Samples by gateway, one for each round, direct first."""
    places = gateways.cores()
    samples: dict[str, list[Sample]] = {}
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        ours, engine = await stack.enter_async_context(gateways.control_plane(folder, places))
        plain = await stack.enter_async_context(gateways.nginx(folder, places, engine))
        measured = [engine.direct, plain, ours]
        router = shutil.which("vllm-router")
        if router is not None:
            measured.append(await stack.enter_async_context(gateways.vllm_router(router, folder, places)))
        pin(os.getpid(), places.rest)
        for number in range(extent.rounds):
            for gateway in measured:
                print(f"round {number + 1} of {extent.rounds}: {gateway.name}", file=sys.stderr)
                samples.setdefault(gateway.name, []).append(await measure(gateway, extent))
    return samples


def table(samples: dict[str, list[Sample]]) -> str:
    """Markdown; medians of rounds. A delay is what a gateway adds to no gateway in the same round."""
    heads = ("gateway", "CPU us/request", "x nginx", "requests/s", "CPU us/token", "x nginx")
    delays = ("added p50 ms", "added p99 ms", "added first token p50 ms")
    rows = [(*heads, *delays), ("---",) * 9, *(_row(name, samples) for name in samples)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(name: str, samples: dict[str, list[Sample]]) -> tuple[str, ...]:
    mine, nginx, direct = samples[name], samples["nginx"], samples["direct"]
    return (
        f"{name} (the engine)" if name == "direct" else name,
        f"{_median(s.cpu_per_request for s in mine):.1f}",
        f"{_median(s.cpu_per_request / n.cpu_per_request for s, n in zip(mine, nginx, strict=True)):.2f}",
        f"{_median(s.requests_per_second for s in mine):.0f}",
        f"{_median(s.cpu_per_token for s in mine):.1f}",
        f"{_median(s.cpu_per_token / n.cpu_per_token for s, n in zip(mine, nginx, strict=True)):.2f}",
        f"{_median(s.p50 - d.p50 for s, d in zip(mine, direct, strict=True)):+.2f}",
        f"{_median(s.p99 - d.p99 for s, d in zip(mine, direct, strict=True)):+.2f}",
        f"{_median(s.first_p50 - d.first_p50 for s, d in zip(mine, direct, strict=True)):+.2f}",
    )


def _median(figures: Iterable[float]) -> float:
    return statistics.median(list(figures))


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU and delay of the warm path, beside nginx and no gateway at all.")
    parser.add_argument("--quick", action="store_true", help="one short round: is it about right?")
    parser.add_argument("--rounds", type=int, help="how many rounds")
    arguments = parser.parse_args()
    if not gateways.nginx_found():
        print(gateways.NGINX_MISSING, file=sys.stderr)
        return 2
    extent = QUICK if arguments.quick else FULL
    extent = replace(extent, rounds=arguments.rounds or extent.rounds)
    print(table(uvloop.run(run(extent))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
