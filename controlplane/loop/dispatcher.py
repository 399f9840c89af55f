"""Dispatch: which requests go to which engine, O(log n) each, at the moment room or a request appears.

A ready model with a free slot and nobody ahead is served at once, without the
loop. How much an engine is fed, and what together, is the batching policy's.
Which replicas may grant is decided elsewhere (a cordon closes the door). Callers
wait with a ticket; a job waits as its head alone, and is begun when it is granted.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

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


class Jobs(Protocol):
    """Who takes over what waited without a ticket. Both return at once."""

    def begin(self, lease: Lease) -> None: ...

    def expire(self, head: RequestHead, rejection: RequestRejected) -> None: ...


_NOBODY = Feed()


class Dispatcher:
    """Grants leases. `poke` wakes the loop, `look` the observer; neither carries anything."""

    jobs: Jobs

    def __init__(self, world: World, poke: Callable[[], None], look: Callable[[], None]) -> None:
        self._world = world
        self._poke = poke
        self._look = look
        self._tickets: dict[str, Ticket] = {}
        self._callers: Counter[str] = Counter()
        self._lingering: dict[str, float] = {}
        self._open = True

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
        self._callers[head.model_id] += 1
        self._world.enqueue(head)
        self.fill(head.model_id)
        if not ticket.granted.done():
            self._poke()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The caller went away: give up the place, or the lease nobody will use."""
        self._take_ticket(ticket.head.request_id)
        if self._world.queue.remove(ticket.head.request_id) is not None:
            self._poke()
        granted = ticket.granted
        if not granted.done():
            granted.cancel()
        elif not granted.cancelled() and granted.exception() is None:
            self.release(granted.result())

    def enqueue(self, head: RequestHead) -> None:
        """A job gets in line, or back into its old place. Whoever is in line already stays where it is."""
        if head.request_id in self._world.queue or not self._open:
            return
        self._world.enqueue(head)
        self.fill(head.model_id)
        if head.request_id in self._world.queue:
            self._poke()

    def withdraw(self, request_id: str) -> RequestHead | None:
        """Take a job out of the line; None when it does not wait."""
        if request_id in self._tickets:
            return None
        head = self._world.queue.remove(request_id)
        if head is not None:
            self._poke()
        return head

    def reprioritise(self, request_id: str, priority: int) -> bool:
        """Move a waiting job to where it stands with that priority; False when it does not wait."""
        head = self.withdraw(request_id)
        if head is not None:
            self.enqueue(replace(head, priority=priority))
        return head is not None

    def resume(self, head: RequestHead, slots: Slots) -> None:
        """A lease for a job that an engine of an earlier life still works on."""
        self.jobs.begin(self._grant(head, slots))

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
            rejection = rejections.expired(now - head.enqueued_at, why(head.model_id))
            if head.request_id in self._tickets:
                self._refuse(head, rejection)
            else:
                self.jobs.expire(head, rejection)
        return len(late)

    def refuse_waiting(self, model_id: str, rejection: RequestRejected) -> None:
        """End every caller's wait for a model that will not come. Jobs wait on: it may be mended."""
        if not self._callers[model_id]:
            return
        for ticket in [ticket for ticket in self._tickets.values() if ticket.head.model_id == model_id]:
            self._world.queue.remove(ticket.head.request_id)
            self._refuse(ticket.head, rejection)

    def close(self, rejection: RequestRejected) -> None:
        """From now on nobody is granted anything: callers are refused, jobs stay where they are kept."""
        self._open = False
        for ticket in list(self._tickets.values()):
            self._refuse(ticket.head, rejection)
        self._world.queue.clear()

    def callers(self, model_id: str | None = None) -> int:
        """How many wait with a ticket, in all or for one model."""
        return len(self._tickets) if model_id is None else self._callers[model_id]

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
        ticket = self._take_ticket(lease.head.request_id)
        if ticket is None:
            self.jobs.begin(lease)
        elif ticket.granted.done():
            self.release(lease)
        else:
            ticket.granted.set_result(lease)

    def _refuse(self, head: RequestHead, rejection: RequestRejected) -> None:
        ticket = self._take_ticket(head.request_id)
        if ticket is not None and not ticket.granted.done():
            ticket.granted.set_exception(rejection)

    def _take_ticket(self, request_id: str) -> Ticket | None:
        ticket = self._tickets.pop(request_id, None)
        if ticket is not None:
            self._callers[ticket.head.model_id] -= 1
        return ticket
