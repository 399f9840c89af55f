"""Boot: jobs that ran go back into line, and the line is read: its beginning before we listen, the rest behind.

Runs after the replicas were recovered. What an engine still works on is taken over where it is.
"""

import asyncio
from dataclasses import dataclass

import structlog

from controlplane.core.model import Outcome, RequestHead
from controlplane.core.tries import MAX_INTERRUPTED, may_be_tried
from controlplane.errors import StoreFailure
from controlplane.loop import rejections
from controlplane.loop.dispatcher import Dispatcher
from controlplane.loop.jobs.endings import PAUSE_SECONDS, Endings, ending
from controlplane.loop.world import World
from controlplane.media.artifacts import Artifacts
from controlplane.store.jobs import InFlight
from controlplane.store.store import Store

log = structlog.get_logger(__name__)

FIRST_HEADS = 5_000
PAGE_HEADS = 1_000
_INTERRUPTED = "the control plane stopped while it ran"


@dataclass(frozen=True, slots=True)
class JobRecovery:
    """Joins the store's jobs with the line in memory."""

    world: World
    store: Store
    dispatcher: Dispatcher
    endings: Endings
    artifacts: Artifacts

    async def run(self) -> "Backlog":
        """What must be done before anybody is served; returns what is left to read. Raises StoreFailure."""
        for request_id, artifact in await self.store.pictures_needed():
            self.artifacts.hold(request_id, artifact)
        in_flight = await self.store.jobs_in_flight()
        await asyncio.gather(*(self._put_back(each) for each in in_flight))
        backlog = Backlog(self, await self.store.waiting_job_priorities())
        await backlog.begin()
        log.info("jobs.recovered", interrupted=len(in_flight), in_line=len(self.world.queue))
        return backlog

    async def admit(self, heads: list[RequestHead]) -> None:
        """Into line with those whose model there is; the others end, because nothing can serve them."""
        for head in heads:
            if head.model_id in self.world.models:
                self.dispatcher.enqueue(head)
            else:
                await self._end_removed(head)

    async def _put_back(self, job: InFlight) -> None:
        at = self.world.clock()
        attempt = job.attempt._replace(finished_at=at, outcome=Outcome.INTERRUPTED, error=_INTERRUPTED)
        if may_be_tried([*job.outcomes, Outcome.INTERRUPTED]):
            await self.store.put_job_back(attempt)
            return
        view = await self.store.job(job.head.request_id)
        if view is not None:
            error = rejections.interrupted_for_good(MAX_INTERRUPTED)
            await self.endings.write(ending(view.accepted, Outcome.FAILED, error, at, (attempt,)))

    async def _end_removed(self, head: RequestHead) -> None:
        view = await self.store.job(head.request_id)
        if view is not None and view.history.request.outcome is None:
            error = rejections.model_removed(head.model_id)
            await self.endings.write(ending(view.accepted, Outcome.FAILED, error, self.world.clock()))


class Backlog:
    """The jobs of earlier lives, read priority by priority, the highest first, each in its order."""

    def __init__(self, recovery: JobRecovery, priorities: list[int]) -> None:
        self._recovery = recovery
        self._left: dict[int, RequestHead | None] = dict.fromkeys(priorities)

    async def begin(self) -> None:
        """The beginning of every priority's line."""
        for priority in list(self._left):
            await self._read(priority, FIRST_HEADS)

    async def run(self) -> None:
        """The rest, a little at a time. Jobs that are accepted meanwhile are in line already, or found again here."""
        while self._left:
            try:
                await self._read(next(iter(self._left)), PAGE_HEADS)
            except StoreFailure as exc:
                log.warning("jobs.reading_delayed", reason=str(exc))
                await asyncio.sleep(PAUSE_SECONDS)

    async def _read(self, priority: int, count: int) -> None:
        recovery = self._recovery
        batched = [m.spec.model_id for m in recovery.world.models.values() if m.batching.counts_rows]
        heads = await recovery.store.waiting_jobs(priority, self._left[priority], count, batched)
        await recovery.admit(heads)
        if len(heads) < count:
            del self._left[priority]
        else:
            self._left[priority] = heads[-1]
