"""Runs jobs: one task per granted lease, from the durable start of a try to the durable end of the job or the try.

The call itself is an exchange like any other; here it is decided what its end means for the job.
"""

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import structlog

from adapters.errors import EngineDied, EngineTimeout, EngineUnreachable
from controlplane.core.model import Outcome, RequestHead
from controlplane.core.tries import MAX_INTERRUPTED, may_be_tried
from controlplane.errors import RequestRejected, StoreFailure
from controlplane.loop import rejections
from controlplane.loop.admission import Admission
from controlplane.loop.dispatcher import Dispatcher, Lease
from controlplane.loop.exchange import Exchange, Surroundings
from controlplane.loop.jobs.board import Board
from controlplane.loop.jobs.endings import PAUSE_SECONDS, Endings, ending
from controlplane.loop.jobs.following import Following
from controlplane.loop.prepared import AnswerForm, Prepare, Prepared, read_payload
from controlplane.media.artifacts import Artifacts
from controlplane.store.errors import RowRefused
from controlplane.store.records import (
    AttemptRecord,
    JobStart,
    RequestAccepted,
    RequestFinished,
    RequestStarted,
)
from controlplane.store.store import Store

log = structlog.get_logger(__name__)

_CANCELLED_STATUS = 499
# A disk that is away must not keep the service from stopping; what was not written is done again.
_LAST_WRITES_SECONDS = 5.0


class JobJournal:
    """Where the exchange of a job notes its end; the start is on disk before there is an exchange."""

    def __init__(self) -> None:
        self._ended: dict[str, RequestFinished] = {}

    def journal_accepted(self, row: RequestAccepted) -> None:
        """Nothing: a job's row was written when it was accepted."""

    def journal_started(self, row: RequestStarted) -> None:
        """Nothing: its try was written when it began."""

    def journal_finished(self, row: RequestFinished) -> None:
        self._ended[row.accepted.request_id] = row

    def take(self, request_id: str) -> RequestFinished:
        return self._ended.pop(request_id)


@dataclass(frozen=True, slots=True)
class RunnerParts:
    """What the runner works with. `prepare` makes a call of a payload."""

    store: Store
    dispatcher: Dispatcher
    admission: Admission
    around: Surroundings
    artifacts: Artifacts
    endings: Endings
    board: Board
    prepare: Prepare


class _Over(NamedTuple):
    """The job is over."""

    row: RequestFinished
    result: bytes | None


class _Again(NamedTuple):
    """The try is over and the job waits again, after a pause."""

    attempt: AttemptRecord
    pause_seconds: float = 0.0


@dataclass(slots=True)
class _Running:
    """A job with a task. `cancelled`: somebody wants it ended. `settling`: too late for that.

    `again_in_seconds`: it waits again, so long after the task has ended.
    """

    head: RequestHead
    task: "asyncio.Task[None]"
    cancelled: RequestRejected | None = None
    settling: bool = False
    again_in_seconds: float | None = None


class JobRunner:
    """Takes over granted jobs. Every one it begins ends on disk, or is found there by the next life."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts
        self._journal = JobJournal()
        self._around = replace(parts.around, journal=self._journal)
        self._running: dict[str, _Running] = {}
        self._expiring: set[asyncio.Task[bool]] = set()

    def begin(self, lease: Lease) -> None:
        if self.runs(lease.head.request_id):
            # Found again in a part of the line that was read before it began.
            self._parts.dispatcher.release(lease)
            return
        task = asyncio.create_task(self._run(lease), name=f"job {lease.head.request_id}")
        self._running[lease.head.request_id] = _Running(lease.head, task)
        task.add_done_callback(partial(self._done, lease))

    def expire(self, head: RequestHead, rejection: RequestRejected) -> None:
        task = asyncio.create_task(self._expire(head.request_id, rejection))
        self._expiring.add(task)
        task.add_done_callback(self._expiring.discard)

    def runs(self, request_id: str) -> bool:
        return request_id in self._running

    async def cancel(self, request_id: str, why: RequestRejected) -> bool:
        """End a running job, and wait until that is on disk; False when it does not run, or is ending already."""
        running = self._running.get(request_id)
        if running is None or running.settling:
            return False
        running.cancelled = why
        running.task.cancel()
        await asyncio.wait((running.task,))
        return True

    def reprioritise(self, request_id: str, priority: int) -> bool:
        """For the case that it has to wait again; False when it does not run."""
        running = self._running.get(request_id)
        if running is not None:
            running.head = replace(running.head, priority=priority)
        return running is not None

    async def close(self) -> None:
        """End what runs; it waits on disk for the next life."""
        for running in self._running.values():
            if not running.settling:
                running.task.cancel()
        tasks = {*(running.task for running in self._running.values()), *self._expiring}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_LAST_WRITES_SECONDS)
            for task in late:
                task.cancel()

    async def _run(self, lease: Lease) -> None:
        running, request_id = self._running[lease.head.request_id], lease.head.request_id
        start: JobStart | None = None
        try:
            start = await self._parts.store.start_job(request_id, lease.slots.replica_id, lease.slots.generation)
            end = None if start is None else await self._try(start, lease)
        except StoreFailure as exc:
            log.warning("job.start_delayed", request=request_id, reason=str(exc))
            running.again_in_seconds = PAUSE_SECONDS
            return
        except asyncio.CancelledError:
            if running.cancelled is None:
                # The service stops before the try has begun to matter; the row is found by the next life.
                return
            running.settling = True
            end = await self._cancelled_early(request_id, start, running.cancelled)
        running.settling = True
        # What waits for a slot need not wait for the disk.
        self._parts.dispatcher.release(lease)
        if end is not None:
            await self._settle(running, end)

    async def _try(self, start: JobStart, lease: Lease) -> "_Over | _Again":
        self._parts.board.changes.ring(start.accepted.request_id)
        try:
            prepared = await self._prepared(start)
        except StoreFailure as exc:
            at = self._around.clock()
            ended = start.attempt._replace(finished_at=at, outcome=Outcome.CANCELLED, error=str(exc))
            return _Again(ended, PAUSE_SECONDS)
        except RequestRejected as exc:
            at = self._around.clock()
            attempt = start.attempt._replace(finished_at=at, outcome=Outcome.FAILED, error=exc.error.message)
            return _Over(ending(start.accepted, Outcome.FAILED, exc, at, (attempt,)), None)
        exchange = self._parts.admission.take_up(start.accepted, prepared.ask, lease, self._around)
        form, following = prepared.form(exchange.accepted), Following(self._parts.board, exchange, lease)
        try:
            answer = await form.finish(await following.answer(gathered=prepared.gathered))
        except RequestRejected as exc:
            return self._failed(start, exchange, form, exc)
        except asyncio.CancelledError:
            end = self._interrupted(start, exchange)
            if isinstance(end, _Over):
                await following.end_kept()
            return end
        exchange.close(Outcome.SUCCEEDED)
        return _Over(self._ended(start, Outcome.SUCCEEDED), answer.body)

    async def _prepared(self, start: JobStart) -> Prepared:
        call = read_payload(start.payload)
        upload = None if call.upload is None else (await self._parts.artifacts.read(call.upload))[0]
        return await self._parts.prepare(call, upload)

    def _failed(
        self, start: JobStart, exchange: Exchange, form: AnswerForm, error: RequestRejected
    ) -> "_Over | _Again":
        outcome = _of_the_try(exchange, error)
        tries = [*(attempt.outcome for attempt in start.tries), outcome]
        if outcome is Outcome.CANCELLED or (_worth_another(exchange, error) and may_be_tried(tries)):
            attempt = exchange.give_up(outcome, error.error.message)
            # An engine that died is looked after anyway; one that lives needs time.
            pause = 0.0 if outcome is Outcome.INTERRUPTED else PAUSE_SECONDS
            return _Again(attempt._replace(n=start.attempt.n, outcome=outcome), pause)
        if outcome is Outcome.INTERRUPTED:
            error = rejections.interrupted_for_good(MAX_INTERRUPTED)
        exchange.close(Outcome.FAILED, error, error.error.status)
        return _Over(self._ended(start, outcome), form.failure(error))

    def _interrupted(self, start: JobStart, exchange: Exchange) -> "_Over | _Again":
        why = self._running[start.accepted.request_id].cancelled
        if why is None:
            attempt = exchange.give_up(Outcome.CANCELLED, "the service was stopped")
            return _Again(attempt._replace(n=start.attempt.n))
        exchange.close(Outcome.CANCELLED, why, _CANCELLED_STATUS)
        return _Over(self._ended(start, Outcome.CANCELLED), None)

    def _ended(self, start: JobStart, outcome: Outcome) -> RequestFinished:
        """What the exchange noted, with the number and the outcome that its try has among all."""
        row = self._journal.take(start.accepted.request_id)
        attempts = tuple(attempt._replace(n=start.attempt.n, outcome=outcome) for attempt in row.attempts)
        return row._replace(attempts=attempts)

    async def _cancelled_early(self, request_id: str, start: JobStart | None, why: RequestRejected) -> "_Over | None":
        """Before there was an exchange. The commit of its start may be under way: ours comes after it."""
        if start is None:
            view = await self._parts.store.job(request_id)
            if view is None or view.history.request.outcome is not None:
                return None
            row = view.accepted
            return _Over(ending(row, Outcome.CANCELLED, why, self._around.clock()), None)
        at = self._around.clock()
        attempt = start.attempt._replace(finished_at=at, outcome=Outcome.CANCELLED)
        return _Over(ending(start.accepted, Outcome.CANCELLED, why, at, (attempt,)), None)

    async def _settle(self, running: _Running, end: "_Over | _Again") -> None:
        if isinstance(end, _Over):
            await self._parts.endings.write(end.row, end.result)
        elif await self._put_back(end.attempt):
            running.again_in_seconds = end.pause_seconds
            self._parts.board.clear(running.head.request_id)

    async def _put_back(self, attempt: AttemptRecord) -> bool:
        while True:
            try:
                return await self._parts.store.put_job_back(attempt)
            except RowRefused:
                # Some databases do not take every text; the engine's own words are the only ones here.
                attempt = attempt._replace(error=None)
            except StoreFailure as exc:
                log.warning("job.put_back_delayed", request=attempt.request_id, reason=str(exc))
                await asyncio.sleep(PAUSE_SECONDS)

    def _done(self, lease: Lease, task: "asyncio.Task[None]") -> None:
        running = self._running.pop(lease.head.request_id)
        self._parts.dispatcher.release(lease)
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("job.broke", request=lease.head.request_id, exc_info=failure)
            self.expire(lease.head, rejections.broken())
        elif running.again_in_seconds is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(running.again_in_seconds, self._parts.dispatcher.enqueue, running.head)

    async def _expire(self, request_id: str, rejection: RequestRejected) -> bool:
        view = await self._parts.store.job(request_id)
        if view is None:
            return False
        outcome = Outcome.EXPIRED if rejection.error.code == "deadline_exceeded" else Outcome.FAILED
        return await self._parts.endings.write(ending(view.accepted, outcome, rejection, self._around.clock()))


def _of_the_try(exchange: Exchange, error: RequestRejected) -> Outcome:
    """Only what the engine answered is the request's own failure."""
    if isinstance(exchange.lost_to, EngineUnreachable) or error.error.code == "unavailable":
        return Outcome.CANCELLED
    if isinstance(exchange.lost_to, EngineDied | EngineTimeout):
        return Outcome.INTERRUPTED
    return Outcome.FAILED


def _worth_another(exchange: Exchange, error: RequestRejected) -> bool:
    return exchange.lost_to is not None or error.error.retryable
