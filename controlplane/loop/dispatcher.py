"""Dispatch: which requests go to which engine, O(log n) each, at the moment room or a request appears.

A ready model with a free slot and nobody ahead is served at once, without the
loop. How much an engine is fed, and what together, is the batching policy's.
Which replicas may grant is decided elsewhere (a cordon closes the door), so
steady traffic on one model cannot keep another waiting for ever.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from controlplane.core.batching import Feed, feed
from controlplane.core.model import RequestHead
from controlplane.errors import RequestRejected
from controlplane.loop import rejections
from controlplane.loop.world import Slots, World


@dataclass(slots=True)
class Lease:
    """A request's right to one slot of one replica, until released exactly once."""

    head: RequestHead
    slots: Slots
    granted_at: float
    released: bool = False


@dataclass(frozen=True, slots=True)
class Ticket:
    """A place in line; `granted` ends with a lease, a RequestRejected, or cancellation."""

    head: RequestHead
    granted: asyncio.Future[Lease]


_NOBODY = Feed()


class Dispatcher:
    """Grants leases. `poke` wakes the loop, `look` the observer; neither carries anything."""

    def __init__(self, world: World, poke: Callable[[], None], look: Callable[[], None]) -> None:
        self._world = world
        self._poke = poke
        self._look = look
        self._tickets: dict[str, Ticket] = {}
        self._lingering: dict[str, float] = {}

    def take(self, head: RequestHead) -> Lease | None:
        """The fast path: a lease at once if a slot is free and nobody of this model waits."""
        if head.rows > 1 or self._world.queue.waiting(head.model_id):
            return None
        slots = self._world.free_slots(head.model_id)
        return self._grant(head, slots) if slots is not None else None

    def enter(self, head: RequestHead) -> Ticket:
        """Get in line, or back into the same place after a try that delivered nothing."""
        ticket = Ticket(head, asyncio.get_running_loop().create_future())
        self._tickets[head.request_id] = ticket
        self._world.enqueue(head)
        self.fill(head.model_id)
        if not ticket.granted.done():
            self._poke()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The caller went away: give up the place, or the lease nobody will use."""
        self._tickets.pop(ticket.head.request_id, None)
        if self._world.queue.remove(ticket.head.request_id) is not None:
            self._poke()
        granted = ticket.granted
        if not granted.done():
            granted.cancel()
        elif not granted.cancelled() and granted.exception() is None:
            self.release(granted.result())

    def release(self, lease: Lease) -> None:
        """The slot is free again; the next in line gets it. Releasing twice is harmless."""
        if lease.released:
            return
        lease.released = True
        slots = lease.slots
        slots.remove(lease.head)
        slots.last_used_at = self._world.clock()
        if self._world.queue.waiting(slots.model_id):
            self.fill(slots.model_id)
        if slots.leases == 0 and (not slots.open or self._world.room_is_wanted):
            self._poke()

    def suspect(self, slots: Slots) -> None:
        """Something went wrong on its wire: no more leases until it was looked at."""
        slots.open, slots.suspected = False, True
        self._look()

    def fill(self, model_id: str) -> None:
        """Hand the first in a model's line to its engines, as much as those can use."""
        slots, fed = self._feed(model_id)
        while slots is not None:
            for head in fed.heads:
                self._world.queue.remove(head.request_id)
            # All of a batch before any of them can be released again.
            for lease in [self._grant(head, slots) for head in fed.heads]:
                self._settle(lease)
            slots, fed = self._feed(model_id)
        self._linger(model_id, fed.until)

    def fill_all(self) -> None:
        # Also whom nobody waits for any more, so that an engine stops waiting for company.
        for model_id in {**self._world.queue.demands(), **self._lingering}:
            self.fill(model_id)

    def wake_at(self) -> float | None:
        """When `fill_all` is due though nothing happens."""
        return min(self._lingering.values(), default=None)

    def expire(self, now: float, why: Callable[[str], str]) -> int:
        """Reject everybody whose deadline has come, naming what it waited for; returns how many."""
        late = self._world.queue.expired(now)
        for head in late:
            self._refuse(head.request_id, rejections.expired(now - head.enqueued_at, why(head.model_id)))
        return len(late)

    def refuse_waiting(self, model_id: str, rejection: RequestRejected) -> None:
        """End every wait for a model that will not come."""
        while (head := self._world.queue.pop(model_id)) is not None:
            self._refuse(head.request_id, rejection)

    def refuse_all(self, rejection: RequestRejected) -> None:
        for model_id in list(self._world.queue.demands()):
            self.refuse_waiting(model_id, rejection)

    def waiting(self) -> Iterator[RequestHead]:
        return iter(self._world.queue)

    def _feed(self, model_id: str) -> tuple[Slots | None, Feed]:
        """The least loaded replica that takes somebody now, and whom; or when that will change by itself."""
        queue, until = self._world.queue, None
        for slots in self._world.by_load(model_id):
            if slots.open:
                front = queue.front(model_id, slots.rules.looks_at)
                fed = feed(slots.rules, slots, front, queue.rank, self._world.clock())
                if fed.heads:
                    return slots, fed
                until = until or fed.until
        return None, Feed(until=until) if until else _NOBODY

    def _linger(self, model_id: str, until: float | None) -> None:
        if until is None:
            if self._lingering:
                self._lingering.pop(model_id, None)
        elif self._lingering.get(model_id) != until:
            self._lingering[model_id] = until
            self._poke()

    def _grant(self, head: RequestHead, slots: Slots) -> Lease:
        slots.add(head)
        return Lease(head, slots, self._world.clock())

    def _settle(self, lease: Lease) -> None:
        ticket = self._tickets.pop(lease.head.request_id, None)
        if ticket is None or ticket.granted.done():
            self.release(lease)
        else:
            ticket.granted.set_result(lease)

    def _refuse(self, request_id: str, rejection: RequestRejected) -> None:
        ticket = self._tickets.pop(request_id, None)
        if ticket is not None and not ticket.granted.done():
            ticket.granted.set_exception(rejection)
