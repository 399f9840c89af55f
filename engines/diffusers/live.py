"""The requests on their way: one task for each, its progress, its end by a result, a refusal, or its caller's wish.

A task does not belong to the connection that asked for it; connections.py decides what a lost caller means.
"""

import asyncio
import logging
from dataclasses import dataclass
from time import monotonic, time
from typing import Protocol

from engines.diffusers.metrics import Metrics
from engines.diffusers.refusals import CANCELLED_STATUS, Refused, closing, conflict, full, not_found
from engines.diffusers.results import KeptResults, Outcome
from engines.diffusers.wire import REQUEST_ID, RequestState, RequestStatus

_GOOD = 200

log = logging.getLogger("diffusers_engine")


@dataclass(frozen=True, slots=True)
class Progress:
    """`images` and `steps`, over all images, as done and total; `batch` rows went through the denoiser last."""

    started: bool
    images: tuple[int, int]
    steps: tuple[int, int] = (0, 0)
    batch: int = 0


class Work(Protocol):
    """What one request does. `kind` names it in the metrics."""

    kind: str

    async def run(self) -> bytes:
        """The answer's body. Raises `Refused`."""
        ...

    def cancel(self) -> None:
        """Let `run` end soon, with `refusals.cancelled`; harmless when it is over."""
        ...

    def progress(self) -> Progress: ...


class LiveRequest:
    """One request until its outcome. `task` ends with the outcome, and raises for nothing that is the caller's."""

    task: asyncio.Task[Outcome]

    def __init__(self, request_id: str, work: Work) -> None:
        self.id = request_id
        self.work = work
        self.created = int(time())
        self.cancelling = False

    def cancel(self) -> None:
        """For its caller, who wants it no more."""
        self.cancelling = True
        self.work.cancel()

    def state(self, ended: RequestStatus | None = None) -> RequestState:
        progress = self.work.progress()
        under_way: RequestStatus = "running" if progress.started else "waiting"
        return RequestState(
            id=self.id,
            created=self.created,
            status=ended or ("cancelling" if self.cancelling else under_way),
            images_done=progress.images[0],
            images_total=progress.images[1],
            steps_done=progress.steps[0],
            steps_total=progress.steps[1],
            batch=progress.batch,
        )


class LiveRequests:
    """All of them, by id. Belongs to the event loop; what is over lives on in the kept results."""

    def __init__(self, results: KeptResults, metrics: Metrics, max_waiting: int) -> None:
        self.closing = False
        self._results = results
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._live: dict[str, LiveRequest] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def check_open(self) -> None:
        """Raises `Refused` when nothing new is taken in."""
        if self.closing:
            raise closing()

    async def start(self, request_id: str, work: Work) -> LiveRequest:
        """Run `work` under this id, in place of what was kept under it. Raises `Refused`."""
        await self._end_of_cancelled(request_id)
        self.check_open()
        waiting = sum(each.work.progress().images[1] for each in self._live.values())
        if waiting + work.progress().images[1] > self._max_waiting:
            raise full(self._max_waiting)
        self._results.drop(request_id)
        live = LiveRequest(request_id, work)
        self._live[request_id] = live
        self._idle.clear()
        live.task = asyncio.create_task(self._conduct(live))
        return live

    async def _end_of_cancelled(self, request_id: str) -> None:
        """Who was cancelled holds its id until its step is over; nobody else gives it up. Raises `Refused`."""
        while other := self._live.get(request_id):
            if not other.cancelling:
                raise conflict(f"a request with the id {request_id} is under way", "request_id_in_use", REQUEST_ID)
            await asyncio.wait({other.task})

    async def _conduct(self, live: LiveRequest) -> Outcome:
        started_at = monotonic()
        try:
            outcome = await self._outcome(live)
            self._keep(live.id, outcome)
            self._note(live, outcome, monotonic() - started_at)
            return outcome
        finally:
            del self._live[live.id]
            if not self._live:
                self._idle.set()

    def _note(self, live: LiveRequest, outcome: Outcome, seconds: float) -> None:
        ended = outcome.state
        self._metrics.ended(live.work.kind, ended.status, seconds)
        told = f"{live.work.kind} {live.id} {ended.status} after {seconds:.2f} s and {ended.steps_done} steps"
        if ended.status == "failed":
            log.warning("%s: %s", told, outcome.content.decode())
        else:
            log.info("%s", told)

    def _keep(self, request_id: str, outcome: Outcome) -> None:
        """And see to it that its memory is free in time, even if nobody calls any more."""
        self._results.keep(request_id, outcome)
        asyncio.get_running_loop().call_later(self._results.seconds + 1, self._results.expire)

    async def _outcome(self, live: LiveRequest) -> Outcome:
        try:
            return Outcome(200, await live.work.run(), live.state("finished"))
        except Refused as exc:
            return self._refusal(live, exc)

    def _refusal(self, live: LiveRequest, refused: Refused) -> Outcome:
        """What our own end cancelled may be tried elsewhere; what its caller cancelled, not."""
        was_cancelled = refused.status == CANCELLED_STATUS
        if was_cancelled and not live.cancelling:
            refused = closing()
        return Outcome(
            refused.status, refused.content(), live.state("cancelled" if was_cancelled else "failed"), refused.headers()
        )

    def known(self, request_id: str) -> LiveRequest | Outcome | None:
        """Under way, or well done and kept. What was cancelled or failed is to be done anew."""
        live = self._live.get(request_id)
        if live is not None:
            return None if live.cancelling else live
        kept = self._results.get(request_id)
        return kept if kept is not None and kept.status == _GOOD else None

    def state(self, request_id: str) -> RequestState:
        """Of a live or a kept request. Raises `Refused` when it is neither."""
        if live := self._live.get(request_id):
            return live.state()
        return self._kept(request_id).state

    def result(self, request_id: str) -> Outcome:
        """The kept outcome. Raises `Refused`: not over yet, or unknown."""
        if request_id in self._live:
            raise conflict(f"the request {request_id} is not over yet", "request_not_finished")
        return self._kept(request_id)

    def end(self, request_id: str) -> RequestState:
        """Cancel a live request; forget a kept one. Raises `Refused` when it is neither."""
        if live := self._live.get(request_id):
            live.cancel()
            return live.state()
        state = self._kept(request_id).state
        self._results.drop(request_id)
        return state

    def _kept(self, request_id: str) -> Outcome:
        outcome = self._results.get(request_id)
        if outcome is None:
            raise not_found(f"there is no request {request_id}; it may be too long ago", "request_not_found")
        return outcome

    async def drain(self, grace_seconds: float) -> bool:
        """Take in nothing more, and wait for the rest. Says whether all of it ended."""
        self.closing = True
        try:
            async with asyncio.timeout(grace_seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def break_off(self) -> None:
        """End what is left; its callers hear that the engine is closing."""
        for live in list(self._live.values()):
            live.work.cancel()
