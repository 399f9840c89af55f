"""The engine as a whole: its memory, its sleep, its scheduler, and what a start and a stop do to them."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable

from engines.simulated.memory import Memory
from engines.simulated.metrics import render
from engines.simulated.scheduler import Scheduler
from engines.simulated.script import FalseSleep, LeftChild, Script

WEIGHTS, KV_CACHE, ASLEEP = "weights", "kv_cache", "asleep"
_SHARDS = 4

log = logging.getLogger("simulated")


class Core:
    """Loaded weights, a KV cache, and the generations that use them."""

    def __init__(self, script: Script, loop: asyncio.AbstractEventLoop) -> None:
        self.script = script
        self.scheduler = Scheduler(script, loop)
        self.asleep = False
        self._loop = loop
        self._memory = Memory()
        self._sleep_state = "awake"
        self._frozen_metrics: bytes | None = None

    async def load(self, model: str) -> None:
        """Allocate everything over `load_seconds`, with the lines that vLLM logs meanwhile."""
        script, started_at = self.script, self._loop.time()
        log.info("Starting to load model %s...", model)
        for shard in range(_SHARDS):
            log.info("Loading safetensors checkpoint shards: %d%% Completed", 100 * shard // _SHARDS)
            await asyncio.sleep(script.load_seconds / (_SHARDS + 1))
            self._memory.grow(WEIGHTS, _share(script.memory_mib, shard))
        took = self._loop.time() - started_at
        log.info("Loading weights took %.2f seconds", took)
        log.info("Model loading took %.4f GiB memory and %.6f seconds", script.memory_mib / 1024, took)
        log.info("Available KV cache memory: %.2f GiB", script.kv_cache_mib / 1024)
        self._memory.grow(KV_CACHE, script.kv_cache_mib)
        log.info("GPU KV cache size: %s tokens", f"{script.max_model_len * script.max_num_seqs:,}")
        log.info("Maximum concurrency for %d tokens per request: %d.00x", script.max_model_len, script.max_num_seqs)
        await asyncio.sleep(script.load_seconds / (_SHARDS + 1))
        took = self._loop.time() - started_at
        log.info("init engine (profile, create kv cache, warmup model) took %.2f seconds", took)
        child = script.first(LeftChild)
        if child is not None:
            _leave_child(child)

    def sleep(self, level: int) -> None:
        """Abort what runs and free memory, as `/sleep` in its default mode does. Level 0 frees nothing."""
        self.asleep = True
        self.scheduler.held = True
        self.scheduler.abort_all()
        if level == 0:
            return
        self._sleep_state = "weights_offloaded" if level == 1 else "discard_all"
        if self.script.first(FalseSleep) is None:
            self._memory.release(WEIGHTS, KV_CACHE)
            self._memory.grow(ASLEEP, self.script.asleep_mib)
        log.info("Sleep mode freed memory, %.2f GiB memory is still in use.", self._memory.size_mib() / 1024)

    def wake(self, woken: Callable[[], None]) -> None:
        """Allocate again after `wake_seconds`, then run what was held, and call `woken`."""
        self._loop.call_later(self.script.wake_seconds if self.asleep else 0, self._awake, woken)

    def _awake(self, woken: Callable[[], None]) -> None:
        self._memory.release(ASLEEP)
        for name, size_mib in ((WEIGHTS, self.script.memory_mib), (KV_CACHE, self.script.kv_cache_mib)):
            self._memory.grow(name, size_mib - self._memory.size_mib(name))
        self.asleep = False
        self._sleep_state = "awake"
        woken()
        self.scheduler.resume()

    def metrics(self, model: str) -> bytes:
        """The Prometheus page; once the engine hangs it stays as it was then."""
        if self._frozen_metrics is not None:
            return self._frozen_metrics
        page = render(self.scheduler, self.script, model, self._sleep_state)
        if self.scheduler.hung:
            self._frozen_metrics = page
        return page

    async def drain(self) -> None:
        """Accept no more, and give what runs `shutdown_timeout_seconds` to end."""
        self.scheduler.closed = True
        try:
            async with asyncio.timeout(self.script.shutdown_timeout_seconds):
                await self.scheduler.idle.wait()
        except TimeoutError:
            log.warning("Drain timed out with %d requests running", self.scheduler.running)

    def kill(self) -> None:
        """Drop every generation without an answer and free all memory: vLLM's engine process is gone."""
        self.scheduler.shut_down()
        self._memory.release()


def _share(total_mib: int, shard: int) -> int:
    return total_mib * (shard + 1) // _SHARDS - total_mib * shard // _SHARDS


_CHILD = """
import mmap, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
size_mib = max(1, int(sys.argv[1]))
held = mmap.mmap(-1, size_mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
print("holding", flush=True)
time.sleep(300)
"""


def _leave_child(fault: LeftChild) -> None:
    """Start the child and wait until it holds its memory."""
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(fault.memory_mib)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=fault.new_session,
    )
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    log.info("Started a child process that stays: pid %d", child.pid)
