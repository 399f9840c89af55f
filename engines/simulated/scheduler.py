"""The simulated engine core: which generations run, which wait, and when each gets its next tokens.

As in vLLM: at most `max_num_seqs` run, the rest wait by (priority, arrival), lower first, and a waiting one never
pushes a running one out. It knows nothing of HTTP: tokens go to a sink.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import signal
from collections import Counter
from typing import Protocol

from engines.simulated.histogram import Histogram
from engines.simulated.script import Script, TokenFault

BURST_TOKENS = 256  # at most so many tokens for one generation before others get their turn
_TIMER_SLACK_SECONDS = 0.001  # timers of uvloop count whole milliseconds
_FLUSH_SECONDS = 0.02  # what is written must leave the process before it kills itself


class Busy(Exception):
    """More requests than `max_num_queued_reqs` allows."""


class ShutDown(Exception):
    """The engine core no longer accepts work."""


class Sink(Protocol):
    """Where the tokens of one generation go."""

    def tokens(self, start: int, end: int, /) -> None:
        """The tokens from `start` up to, not including, `end` are there."""

    def finished(self, reason: str) -> None:
        """No more will come: stop, length, abort or error."""


class Generation:
    """One request in the engine core."""

    __slots__ = (
        "arrived_at",
        "emitted",
        "fault",
        "first_at",
        "interval",
        "limit",
        "priority",
        "prompt_tokens",
        "reason",
        "sink",
        "state",
        "timer",
    )

    def __init__(self, sink: Sink, prompt_tokens: int, limit: int, reason: str, priority: int) -> None:
        self.sink = sink
        self.prompt_tokens = prompt_tokens
        self.limit = limit
        self.reason = reason
        self.priority = priority
        self.state = "new"  # waiting, running, over
        self.emitted = 0
        self.arrived_at = 0.0
        self.first_at = 0.0
        self.fault: TokenFault | None = None
        self.timer: asyncio.Handle | None = None
        self.interval: float | None = None  # seconds from token to token, where it is not the engine's own


class Scheduler:
    """Owns every generation from `submit` to its end."""

    def __init__(self, script: Script, loop: asyncio.AbstractEventLoop) -> None:
        self._script = script
        self._loop = loop
        self._interval = 1.0 / script.tokens_per_second if script.tokens_per_second else 0.0
        self._running: set[Generation] = set()
        self._waiting: list[tuple[int, int, Generation]] = []
        self._waiting_count = 0
        self._arrivals = 0
        self._filling = False
        self.held = False  # asleep: accept, and run nothing
        self.closed = False  # draining or shut down: accept nothing
        self.hung = False
        self.generation_tokens = 0
        self.prompt_tokens = 0
        self.rejected = 0
        self.finished: Counter[str] = Counter()
        self.queue_seconds = Histogram()
        self.first_token_seconds = Histogram()
        self.total_seconds = Histogram()
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return self._waiting_count

    def submit(self, generation: Generation) -> None:
        """Queue it, and run it if there is room; its sink may be called before this returns.

        Raises `Busy` or `ShutDown`.
        """
        if self.closed:
            raise ShutDown
        most = self._script.max_num_queued_reqs
        if most is not None and self.running + self._waiting_count >= most:
            self.rejected += 1
            raise Busy
        self._arrivals += 1
        generation.fault = self._fault(self._arrivals, generation.limit)
        generation.state = "waiting"
        generation.arrived_at = self._loop.time()
        self._waiting_count += 1
        self.idle.clear()
        heapq.heappush(self._waiting, (generation.priority, self._arrivals, generation))
        self._fill()

    def cancel(self, generation: Generation) -> None:
        """Drop it without a word to its sink; nothing happens where it is over."""
        self._leave(generation)
        self._fill()

    def abort_all(self) -> None:
        """End everything with the reason "abort", as `/sleep` does."""
        everything = [*self._running, *(entry[2] for entry in self._waiting)]
        for generation in everything:
            if generation.state in ("running", "waiting"):
                self._end(generation, "abort")

    def shut_down(self) -> None:
        """Drop everything without a word to any sink, as vLLM does on SIGTERM: their clients wait in vain."""
        self.closed = True
        for generation in [*self._running, *(entry[2] for entry in self._waiting)]:
            self._leave(generation)

    def resume(self) -> None:
        """Run what was held while asleep."""
        self.held = False
        self._fill()

    def _fault(self, number: int, limit: int) -> TokenFault | None:
        due = [fault for fault in self._script.token_faults if fault.request in (None, number) and fault.token < limit]
        return min(due, key=lambda fault: fault.token, default=None)

    def _fill(self) -> None:
        """Start waiting generations while there is room. Does not nest: a start may end at once and call back."""
        if self._filling:
            return
        self._filling = True
        try:
            while self._waiting and len(self._running) < self._script.max_num_seqs and not self.held:
                generation = heapq.heappop(self._waiting)[2]
                if generation.state == "waiting":
                    self._start(generation)
        finally:
            self._filling = False

    def _start(self, generation: Generation) -> None:
        self._waiting_count -= 1
        generation.state = "running"
        self._running.add(generation)
        prefill_seconds = self._script.prefill_seconds
        now = self._loop.time()
        self.queue_seconds.observe(now - generation.arrived_at)
        generation.first_at = now + prefill_seconds
        if prefill_seconds:
            generation.timer = self._loop.call_at(generation.first_at, self._advance, generation)
        else:
            self._advance(generation)

    def _advance(self, generation: Generation) -> None:
        """Give it the tokens that are due by now."""
        if self.hung:
            return
        if not generation.emitted:
            self.prompt_tokens += generation.prompt_tokens
            self.first_token_seconds.observe(self._loop.time() - generation.arrived_at)
        start = generation.emitted
        stop = generation.limit if generation.fault is None else min(generation.limit, generation.fault.token)
        end = min(stop, start + BURST_TOKENS, self._due(generation))
        if end > start:
            generation.emitted = end
            self.generation_tokens += end - start
            generation.sink.tokens(start, end)
        if end < stop:
            self._wait_for_next(generation)
        elif generation.fault is not None:
            self._strike(generation, generation.fault)
        else:
            self._end(generation, generation.reason)

    def _due(self, generation: Generation) -> int:
        interval = self._pause(generation)
        if not interval:
            return generation.limit
        past = self._loop.time() - generation.first_at + _TIMER_SLACK_SECONDS
        return 1 + int(past / interval)

    def _pause(self, generation: Generation) -> float:
        return self._interval if generation.interval is None else generation.interval

    def _wait_for_next(self, generation: Generation) -> None:
        if interval := self._pause(generation):
            at = generation.first_at + generation.emitted * interval
            generation.timer = self._loop.call_at(at, self._advance, generation)
        else:
            generation.timer = self._loop.call_soon(self._advance, generation)

    def _strike(self, generation: Generation, fault: TokenFault) -> None:
        if fault.kind == "crash":
            generation.timer = self._loop.call_later(_FLUSH_SECONDS, os.kill, os.getpid(), signal.SIGKILL)
        elif fault.kind == "hang":
            self.hung = True
        else:
            self._end(generation, fault.kind)

    def _end(self, generation: Generation, reason: str) -> None:
        self._leave(generation)
        self.finished[reason] += 1
        self.total_seconds.observe(self._loop.time() - generation.arrived_at)
        generation.sink.finished(reason)
        self._fill()

    def _leave(self, generation: Generation) -> None:
        if generation.state == "waiting":
            self._waiting_count -= 1
        self._running.discard(generation)
        generation.state = "over"
        if generation.timer is not None:
            generation.timer.cancel()
            generation.timer = None
        if not self._running and not self._waiting_count:
            self.idle.set()
