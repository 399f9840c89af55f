"""A real dispatcher over one replica, with a clock that is set and an engine that is modelled.

The engine does what its mode says, by the plainest reading: it takes rows by
priority, then by arrival. It decides nothing about who is sent to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from adapters.endpoint import Endpoint
from adapters.http1 import Pool
from adapters.simulated import SimulatedAdapter
from controlplane.core.batching import BatchRules, Mode
from controlplane.core.estimates import Estimate
from controlplane.core.model import Replica, ReplicaState, RequestHead, Rules
from controlplane.core.queue import BACKGROUND_SECONDS
from controlplane.loop.dispatcher import Dispatcher, Lease, Ticket
from controlplane.loop.world import ModelEntry, Slots, World
from controlplane.settings.models_file import ModelSettings

EPOCH = 1_000_000.0
MODEL = "m"
SECONDS_PER_POINT = 6.0


@dataclass
class Running:
    """A lease at the engine: when it came, how many steps its rows still need, whether its call has begun."""

    lease: Lease
    arrival: int
    steps_left: int
    in_call: bool = False

    @property
    def order(self) -> tuple[int, int]:
        return (-self.lease.head.priority, self.arrival)


class Feeding:
    """Requests come, leave and are computed; every grant is recorded in order."""

    def __init__(self, rules: BatchRules, steps: int = 3) -> None:
        self.rules = rules
        self.steps = steps
        self.now = EPOCH
        self.pokes = 0
        self.granted: list[RequestHead] = []
        self.finished: list[RequestHead] = []
        self.running: list[Running] = []
        self.tickets: dict[str, Ticket] = {}
        self._runner = asyncio.Runner()
        self._arrivals = 0
        self.world = World({MODEL: _entry(rules)}, Rules(SECONDS_PER_POINT), lambda: self.now)
        self.dispatcher = Dispatcher(self.world, self._poke, lambda: None)
        replica = Replica("m-0", MODEL, 1, ReplicaState.READY, "host", 1, EPOCH)
        self.world.update(replica)
        endpoint = Endpoint.unix("/nowhere")
        self.world.connect(replica, endpoint, "", Pool(endpoint))

    def close(self) -> None:
        self._runner.close()

    @property
    def slots(self) -> Slots:
        return self.world.slots["m-0"]

    def waiting(self) -> list[RequestHead]:
        """In the order of the line, counted anew from what is in it."""
        return sorted(self.world.queue, key=self.rank)

    def rank(self, head: RequestHead) -> tuple[float, int]:
        behind = 0.0 if head.priority else BACKGROUND_SECONDS
        return (head.enqueued_at + behind - head.priority * SECONDS_PER_POINT, int(head.request_id))

    def submit(self, priority: int, rows: int = 1, key: str = "") -> RequestHead:
        """As an exchange does it: at once if it can be, else in line."""
        self._arrivals += 1
        rows = self.rules.rows(rows)
        head = RequestHead(str(self._arrivals), MODEL, priority, self.now, rows=rows, key=key)
        self.do(lambda: self._ask(head))
        return head

    def leave(self, head: RequestHead) -> None:
        """The caller goes; then the loop, which is poked, gets its turn."""
        self.do(lambda: self.dispatcher.leave(self.tickets.pop(head.request_id)))
        self.tend()

    def finish(self, run: Running) -> None:
        self.running.remove(run)
        self.finished.append(run.lease.head)
        self.do(lambda: self.dispatcher.release(run.lease))

    def tend(self) -> None:
        """What a pass of the loop does for the line."""
        self.do(self.dispatcher.fill_all)

    def pass_time(self, seconds: float) -> None:
        """The loop wakes whenever the dispatcher asked for it, and only then."""
        end = self.now + seconds
        while (due := self.dispatcher.wake_at()) is not None and due <= end:
            assert due > self.now, "the loop is asked to wake in the past: it would spin"
            self.now = due
            self.tend()
        self.now = end

    def step(self) -> None:
        """One step of the engine; who has no steps left is finished."""
        for run in self.computed():
            run.steps_left -= 1
        for run in [run for run in self.running if run.steps_left <= 0]:
            self.finish(run)

    def computed(self) -> list[Running]:
        """Whose rows the engine computes now."""
        if self.rules.mode is Mode.CONTINUOUS:
            return list(self.running)
        if self.rules.mode is Mode.STEPS:
            return self._first_rows(self.running)
        call = [run for run in self.running if run.in_call]
        if not call:
            first = min(self.running, key=lambda run: run.order, default=None)
            alike = [run for run in self.running if first and run.lease.head.key == first.lease.head.key]
            call = self._first_rows(alike)
            for run in call:
                run.in_call = True
        return call

    def set_open(self, *, is_open: bool) -> None:
        self.slots.open = is_open
        self.tend()

    def _first_rows(self, runs: list[Running]) -> list[Running]:
        taken: list[Running] = []
        rows = 0
        for run in sorted(runs, key=lambda run: run.order):
            if rows < self.rules.batch_rows:
                taken.append(run)
                rows += run.lease.head.rows
        return taken

    def _ask(self, head: RequestHead) -> None:
        lease = self.dispatcher.take(head)
        if lease is not None:
            self._begin(lease)
            return
        ticket = self.tickets[head.request_id] = self.dispatcher.enter(head)
        ticket.granted.add_done_callback(self._settled)

    def _settled(self, granted: asyncio.Future[Lease]) -> None:
        if not granted.cancelled():
            self._begin(granted.result())

    def _begin(self, lease: Lease) -> None:
        self.tickets.pop(lease.head.request_id, None)
        self.granted.append(lease.head)
        self.running.append(Running(lease, len(self.granted), self.steps))

    def _poke(self) -> None:
        self.pokes += 1

    def do(self, work: Callable[[], object]) -> None:
        """Inside the event loop, with what follows from it."""

        async def inside() -> None:
            work()
            await asyncio.sleep(0)

        self._runner.run(inside())


def _entry(rules: BatchRules) -> ModelEntry:
    settings = ModelSettings.model_validate(
        {"model_id": MODEL, "model_type": "text2image", "engine": "simulated", "vram_required_mb": 1}
    )
    spec = replace(settings.spec(), max_concurrency=rules.depth_rows)
    return ModelEntry(settings, spec, SimulatedAdapter(), "", Estimate(1.0), rules)
