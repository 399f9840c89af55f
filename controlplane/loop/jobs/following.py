"""The engine's answer to a job, and meanwhile how far it is: text as it grows, steps as the engine tells them."""

import asyncio
from dataclasses import dataclass

from adapters.base import WorkProgress
from adapters.gathering import ChatGathering
from controlplane.loop.dispatcher import Lease
from controlplane.loop.exchange import Answer, Exchange
from controlplane.loop.jobs.board import Board, Progress

_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Following:
    """Shows one try of a job on the board."""

    board: Board
    exchange: Exchange
    lease: Lease

    async def answer(self, *, gathered: bool) -> Answer:
        """The whole good answer. Raises RequestRejected."""
        return await (self._gathered() if gathered else self._whole())

    async def end_kept(self) -> None:
        """The engine need not go on with it, though it may not have noticed that its caller left."""
        endpoint, accepted = self.lease.slots.endpoint, self.exchange.accepted
        if endpoint is not None:
            await accepted.entry.adapter.end(endpoint, accepted.head.request_id)

    async def _gathered(self) -> Answer:
        content_type = await self.exchange.open()
        request_id, gathering = self.exchange.accepted.head.request_id, ChatGathering()
        self.board.show(request_id, lambda: Progress(text=gathering.text))
        while (chunk := await self.exchange.next_chunk()) is not None:
            gathering.feed(chunk)
            self.board.changes.ring(request_id)
        return Answer(200, content_type, gathering.whole())

    async def _whole(self) -> Answer:
        looking = asyncio.create_task(self._look())
        try:
            return await self.exchange.whole()
        finally:
            looking.cancel()

    async def _look(self) -> None:
        """Ask the engine, as long as somebody wants to know."""
        accepted, endpoint = self.exchange.accepted, self.lease.slots.endpoint
        request_id, adapter = accepted.head.request_id, accepted.entry.adapter
        while endpoint is not None:
            if request_id in self.board.changes and (told := await adapter.progress(endpoint, request_id)):
                self._show(request_id, told)
            await asyncio.sleep(_LOOK_SECONDS)

    def _show(self, request_id: str, told: WorkProgress) -> None:
        progress = Progress(told.done, told.total, told.unit)
        if self.board.progress(request_id) != progress:
            self.board.show(request_id, lambda: progress)
