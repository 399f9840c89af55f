"""Two corners of the store's front: the outbox of callbacks, and the answers under idempotency keys.

Like the store's own methods, these may raise StoreFailure; then nothing of that call took effect.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from controlplane.ports import Clock
from controlplane.store import history, idempotency, outbox
from controlplane.store.deliveries import (
    Delivery,
    DeliveryPage,
    DeliveryRecord,
    DeliveryState,
    DeliveryTry,
    DueHead,
    Hosts,
)
from controlplane.store.idempotency import KeptAnswer
from controlplane.store.records import IdempotencyClaim
from controlplane.store.writer import Writer

T = TypeVar("T")


def _unheard() -> None:
    """Before anybody delivers."""


class Read(Protocol):
    async def __call__(self, action: str, query: Callable[[Connection], T]) -> T:
        """Run a query away from the event loop; `action` words its failure."""
        ...


class Outbox:
    """Callbacks, from the transaction of their outcome until they are delivered or given up."""

    def __init__(self, writer: Writer, read: Read, clock: Clock) -> None:
        self._writer = writer
        self._read = read
        self._clock = clock
        self.on_due: Callable[[], None] = _unheard
        """Called when something was written that is due at once."""

    async def due(self, hosts: Hosts, under_way: frozenset[str], limit: int) -> Sequence[DueHead]:
        """Deliveries whose time has come, longest due first, less those `under_way`."""
        return await self._read(
            "read the callbacks", partial(outbox.due, now=self._clock(), hosts=hosts, under_way=under_way, limit=limit)
        )

    async def load(self, request_id: str) -> Delivery | None:
        """What to deliver; None when it has ended meanwhile."""
        return await self._read("read the callback", partial(outbox.load, request_id=request_id))

    async def next_due_at(self, after: float) -> float | None:
        """When the first one after that moment is due."""
        return await self._read("read the callbacks", partial(outbox.next_due_at, after=after))

    async def record(self, ended: DeliveryTry) -> bool:
        """Write how a try ended; False when the delivery has moved on meanwhile."""
        return await self._writer.commit(partial(outbox.record, ended=ended))

    async def resend(self, request_id: str) -> DeliveryRecord | None:
        """Make a dead delivery due again; one that is not dead stays as it is. None: there is no such."""
        found = await self._writer.commit(partial(outbox.resend, request_id=request_id, at=self._clock()))
        self.on_due()
        return found

    async def one(self, request_id: str) -> DeliveryRecord | None:
        return await self._read("read the callback", partial(outbox.one, request_id=request_id))

    async def page(self, state: DeliveryState, cursor: str | None = None, limit: int = 100) -> DeliveryPage:
        """Deliveries newest first. Raises ValueError for a cursor that no page gave."""
        position = history.decode_cursor(cursor) if cursor else None
        return await self._read("list the callbacks", partial(outbox.page, state=state, position=position, limit=limit))


class Keys:
    """Answers under idempotency keys. Every method raises KeyReused for a key that other work was done under."""

    def __init__(self, writer: Writer, read: Read, clock: Clock) -> None:
        self._writer = writer
        self._read = read
        self._clock = clock

    async def answer(self, claim: IdempotencyClaim) -> KeptAnswer | None:
        return await self._read(
            "look up the idempotency key", partial(idempotency.answer, wanted=claim, at=self._clock())
        )

    async def keep(self, claim: IdempotencyClaim, given: KeptAnswer) -> None:
        await self._writer.commit(partial(idempotency.keep, wanted=claim, given=given, at=self._clock()))
