"""Delivers what is due: looks, starts what the lanes have room for, records how each try ended, waits for the next.

The poke makes it fast, the time of the next delivery makes it correct. A try is recorded after it was made:
after a crash in between, the receiver gets the same callback, under the same id, once more.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from controlplane.core.webhook import Patience, Reply, pause_seconds
from controlplane.errors import StoreFailure
from controlplane.loop.callbacks.lanes import Lanes, Search
from controlplane.loop.callbacks.post import Poster
from controlplane.loop.telemetry import Telemetry
from controlplane.ports import Clock
from controlplane.store.deliveries import Delivery, DeliveryState, DeliveryTry, DueHead
from controlplane.store.edges import Outbox

log = structlog.get_logger(__name__)

T = TypeVar("T")

_LOOK_AGAIN_SECONDS = 60.0
_STORE_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class SenderRules:
    """`chance` gives numbers in [0, 1), by which tries are spread."""

    patience: Patience
    chance: Callable[[], float]
    clock: Clock


class CallbackSender:
    """One task, and one more for each delivery under way."""

    def __init__(self, outbox: Outbox, poster: Poster, lanes: Lanes, rules: SenderRules, telemetry: Telemetry) -> None:
        self._outbox = outbox
        self._poster = poster
        self._lanes = lanes
        self._rules = rules
        self._clock = rules.clock
        self._woken = asyncio.Event()
        self._telemetry = telemetry
        outbox.on_due = self.poke

    def poke(self) -> None:
        """Something is due: look now."""
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled; what is under way then is delivered again by the next life."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._woken.clear()
                pause = await _insisting(lambda: self._look(tasks))
                try:
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
                except TimeoutError:
                    continue

    async def _look(self, tasks: asyncio.TaskGroup) -> float:
        """Start what can be started; seconds until something else will be due."""
        # Of before the search: what becomes due while we search must not fall between the two questions.
        began = self._clock()
        while any([await self._start_some(tasks, search) for search in self._lanes.searches()]):
            pass
        due_at = await self._outbox.next_due_at(began)
        return _LOOK_AGAIN_SECONDS if due_at is None else min(_LOOK_AGAIN_SECONDS, max(0.0, due_at - self._clock()))

    async def _start_some(self, tasks: asyncio.TaskGroup, search: Search) -> bool:
        """Whether there may be more: a line of one receiver's may hide the others'."""
        found = await self._outbox.due(search.hosts, self._lanes.under_way, search.limit)
        started = [head for head in found if self._lanes.enter(head)]
        for head in started:
            tasks.create_task(self._deliver(head), name=f"callback {head.request_id}")
        return bool(started)

    async def _deliver(self, head: DueHead) -> None:
        reply = None
        try:
            delivery = await _insisting(lambda: self._outbox.load(head.request_id))
            if delivery is not None:
                reply = await self._poster.post(delivery, self._clock())
                await self._record(delivery, reply)
        finally:
            self._lanes.leave(head, good=reply is not None and reply.good)
            self._woken.set()

    async def _record(self, delivery: Delivery, reply: Reply) -> None:
        ended = self._judged(delivery, reply)
        # Until it is recorded the receiver's place stays taken: a full disk must not make us repeat ourselves.
        await _insisting(lambda: self._outbox.record(ended))
        self._telemetry.callbacks.labels("failed" if ended.due_at is not None else ended.state.value).inc()
        if ended.state is DeliveryState.DEAD:
            log.warning("callback.dead", request_id=delivery.request_id, tries=delivery.tries + 1, reason=reply.reason)

    def _judged(self, delivery: Delivery, reply: Reply) -> DeliveryTry:
        now, tries = self._clock(), delivery.tries + 1
        pause = None if reply.good else pause_seconds(reply, tries, self._rules.patience, self._rules.chance())
        state = (
            DeliveryState.DELIVERED if reply.good else DeliveryState.DEAD if pause is None else DeliveryState.PENDING
        )
        return DeliveryTry(
            request_id=delivery.request_id,
            tries_before=delivery.tries,
            state=state,
            at=now,
            due_at=None if pause is None else now + pause,
            status=reply.status,
            error=None if reply.good else reply.reason,
        )


async def _insisting(work: Callable[[], Awaitable[T]]) -> T:
    """Again and again until the store takes it; nothing tells when a disk is back."""
    while True:
        try:
            return await work()
        except StoreFailure as exc:
            log.warning("callbacks.store_failed", reason=str(exc))
            await asyncio.sleep(_STORE_PAUSE_SECONDS)
