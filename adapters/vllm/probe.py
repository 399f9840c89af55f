"""Looks at one vLLM once: does it answer, how much runs and waits, and does work move?

`/health` answers 200 even when nothing moves, so the token and request counters of `/metrics` come along. What follows
from them (a watchdog, a restart) is decided elsewhere.
"""

import asyncio
from collections.abc import Callable

from adapters.base import Probe
from adapters.endpoint import Endpoint
from adapters.errors import EngineError
from adapters.http1 import Pool
from adapters.metrics_text import read_samples

_CONNECT_TIMEOUT_SECONDS = 1.0
_ANSWER_TIMEOUT_SECONDS = 3.0
_MAX_HEALTH_BYTES = 64 * 1024
_MAX_METRICS_BYTES = 8 * 1024 * 1024

_RUNNING = b"vllm:num_requests_running"
_WAITING = b"vllm:num_requests_waiting"
_PROGRESS = (
    b"vllm:iteration_tokens_total_count",  # steps of the engine: they rise through a long prefill too
    b"vllm:prompt_tokens_total",
    b"vllm:generation_tokens_total",
    b"vllm:request_success_total",
)
_NAMES = frozenset({_RUNNING, _WAITING, *_PROGRESS})


def read_counters(text: bytes) -> Probe:
    """A ready replica's probe out of the text of `/metrics`."""
    samples = read_samples(text, _NAMES)
    progress = [samples[name] for name in _PROGRESS if name in samples]
    return Probe(
        ready=True,
        running=_count(samples.get(_RUNNING)),
        waiting=_count(samples.get(_WAITING)),
        progressed=sum(progress) if progress else None,
    )


async def look(endpoint: Endpoint, read: Callable[[bytes], Probe] = read_counters) -> Probe:
    """Ready when `/health` says 200; the counters are None where `/metrics` does not give them. Never raises.

    `read` makes a ready replica's probe out of the text of `/metrics`.
    """
    pool = Pool(endpoint, connect_timeout_seconds=_CONNECT_TIMEOUT_SECONDS)
    try:
        status, body = await _get(pool, "/health", _MAX_HEALTH_BYTES)
        if status != 200:
            return Probe(ready=False, detail=f"/health answered {status}" + (f": {_text(body)}" if body else ""))
        return await _with_counters(pool, read)
    except EngineError as exc:
        return Probe(ready=False, detail=str(exc))
    finally:
        await _close(pool)


async def _with_counters(pool: Pool, read: Callable[[bytes], Probe]) -> Probe:
    try:
        status, text = await _get(pool, "/metrics", _MAX_METRICS_BYTES)
    except EngineError as exc:
        return Probe(ready=True, detail=f"no counters: {exc}")
    if status != 200:
        return Probe(ready=True, detail=f"no counters: /metrics answered {status}")
    return read(text)


def _count(sample: float | None) -> int | None:
    return None if sample is None else int(sample)


async def _get(pool: Pool, path: str, limit: int) -> tuple[int, bytes]:
    with await pool.send("GET", path, timeout_seconds=_ANSWER_TIMEOUT_SECONDS) as response:
        return response.status, await response.read(limit, _ANSWER_TIMEOUT_SECONDS)


async def _close(pool: Pool) -> None:
    """Close the sockets; the event loop tells of it one turn later."""
    pool.close()
    await asyncio.sleep(0)


def _text(body: bytes) -> str:
    return " ".join(body[:200].decode("utf-8", "replace").split())
