"""One accepted call from the line to its last byte: lease, engine, retries, outcome, journal.

Retries only while nothing was delivered to the caller; one that was given its lease
is a single try. Whoever drives it ends it with `close` (the outcome is recorded exactly
once, whatever happened) or with `give_up`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from adapters.base import Call, Ending, Verdict
from adapters.errors import EngineDeclined, EngineError, EngineUnreachable
from adapters.http1 import Response
from controlplane.core.model import InferenceType, Outcome, RequestHead
from controlplane.errors import RequestRejected
from controlplane.loop import rejections
from controlplane.loop.dispatcher import Dispatcher, Lease
from controlplane.loop.lingering import Lingering
from controlplane.loop.tallies import ModelTally
from controlplane.loop.world import ModelEntry
from controlplane.ports import Clock
from controlplane.store.records import AttemptRecord, RequestAccepted, RequestFinished, RequestStarted

MAX_TRIES = 3
MAX_WHOLE_BYTES = 256 * 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_TAIL_BYTES = 8 * 1024
_TAIL_CHUNKS = 16
_END_MARK = b"data: [DONE]\n\n"
_JOURNAL_START_AFTER_SECONDS = 0.2

OnWait = Callable[[], Awaitable[None]]


class Accepted(NamedTuple):
    """A call that passed the door."""

    call: Call
    head: RequestHead
    type: InferenceType
    entry: ModelEntry
    journal: RequestAccepted


class Journal(Protocol):
    """Where it is noted how far a call has come; notes never wait."""

    def journal_accepted(self, row: RequestAccepted) -> None: ...

    def journal_started(self, row: RequestStarted) -> None: ...

    def journal_finished(self, row: RequestFinished) -> None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every exchange shares."""

    dispatcher: Dispatcher
    journal: Journal
    clock: Clock
    wait_tick_seconds: float
    lingering: Lingering = field(default_factory=partial(Lingering, _JOURNAL_START_AFTER_SECONDS))


class Answer(NamedTuple):
    """An engine's whole answer."""

    status: int
    content_type: bytes
    body: bytes


@dataclass(slots=True)
class _Progress:
    """When things happened to this call, in the loop's seconds."""

    granted_at: float | None = None
    first_byte_at: float | None = None
    tries: list[AttemptRecord] = field(default_factory=list)


class Exchange:
    """Drives one accepted call; used by one task, ended by `close`."""

    def __init__(
        self,
        accepted: Accepted,
        around: Surroundings,
        tally: ModelTally,
        ended: "Callable[[Exchange], None]",
        lease: Lease | None = None,
    ) -> None:
        self.accepted = accepted
        self._around = around
        self._tally = tally
        self._progress = _Progress()
        self.lost_to: EngineError | None = None
        self._lease: Lease | None = None
        self._given = lease
        self._response: Response | None = None
        self._tail: deque[bytes] = deque(maxlen=_TAIL_CHUNKS)
        self._verdict: Verdict | None = None
        self._closed = False
        self._ended = ended

    async def open(self, on_wait: OnWait | None = None) -> bytes:
        """Wait for the engine's good answer to begin; its content type. `on_wait` is called every tick without a slot.

        Raises RequestRejected with what the caller should get.
        """
        return _content_type(await self._respond(on_wait))

    async def next_chunk(self) -> bytes | None:
        """The next bytes for the caller, as they came; None after a good end. Raises RequestRejected."""
        response = self._response
        if response is None:
            return None
        try:
            chunk = await response.next_chunk()
        except EngineError as exc:
            if self._given is not None:
                self._lost(self._given, exc)
            raise rejections.engine_lost(f"the engine failed while answering: {exc}") from exc
        if chunk is None:
            self._judge_stream()
            return None
        if self._progress.first_byte_at is None:
            self._progress.first_byte_at = self._around.clock()
        self._tail.append(chunk)
        return self._without_false_end(chunk) if chunk.endswith(_END_MARK) else chunk

    async def whole(self) -> Answer:
        """The whole good answer. As nothing was delivered yet, a lost engine is tried again.

        Raises RequestRejected with what the caller should get.
        """
        while True:
            response = await self._respond(None)
            try:
                body = await response.read(MAX_WHOLE_BYTES)
            except EngineError as exc:
                if self._lease is not None:
                    self._lost(self._lease, exc)
                continue
            self._progress.first_byte_at = self._around.clock()
            verdict = self.accepted.entry.adapter.verdict(body[-_TAIL_BYTES:], stream=False)
            self._judge(verdict)
            return Answer(response.status, _content_type(response), body)

    def close(self, outcome: Outcome, error: RequestRejected | None = None, status: int = 200) -> None:
        """Give back what is held and record the outcome; the first call decides."""
        if self._closed:
            return
        self._let_go(outcome, error.error.message if error else None)
        self._record(outcome, error, status)
        self._ended(self)

    def give_up(self, outcome: Outcome, reason: str) -> AttemptRecord:
        """End the one try of a call that goes on later: nothing is recorded. Only with a lease that was given."""
        self._let_go(outcome, reason)
        self._ended(self)
        return self._progress.tries[-1]

    def leave(self, status: int) -> None:
        """The caller went away: cancelled, unless it left because the engine had told it of a failure."""
        verdict = self._verdict_of_tail() if self._tail else None
        if verdict is not None and verdict.ending is Ending.ERROR:
            told = _broken_off(verdict)
            self.close(Outcome.FAILED, told, told.error.status)
        else:
            self.close(Outcome.CANCELLED, status=status)

    def _let_go(self, outcome: Outcome, reason: str | None) -> None:
        self._closed = True
        self._around.lingering.leave(self)
        if self._response is not None:
            self._response.close()
        if self._lease is not None:
            self._end_try(self._lease, outcome, reason)

    async def _respond(self, on_wait: OnWait | None) -> Response:
        while True:
            lease = await self._obtain(on_wait)
            try:
                return await self._send(lease)
            except EngineError as exc:
                self._lost(lease, exc)

    async def _obtain(self, on_wait: OnWait | None) -> Lease:
        lease = self._given
        if lease is None and not self._progress.tries:
            lease = self._around.dispatcher.take(self.accepted.head)
        if lease is None:
            lease = await self._stand_in_line(on_wait)
        self._lease = lease
        if self._progress.granted_at is None:
            self._progress.granted_at = lease.granted_at
            self._around.lingering.enter(self, partial(self._journal_start, lease))
        return lease

    async def _stand_in_line(self, on_wait: OnWait | None) -> Lease:
        ticket = self._around.dispatcher.enter(self.accepted.head)
        try:
            while not ticket.granted.done():
                await asyncio.wait((ticket.granted,), timeout=self._around.wait_tick_seconds)
                if on_wait is not None and not ticket.granted.done():
                    await on_wait()
            return ticket.granted.result()
        except BaseException:
            # Cancelled (the caller went away) or the caller's wire broke in `on_wait`: nobody may keep the place.
            self._around.dispatcher.leave(ticket)
            raise

    async def _send(self, lease: Lease) -> Response:
        pool = lease.slots.pool
        if pool is None:
            raise EngineUnreachable(f"{lease.slots.replica_id} has just stopped")
        call, adapter = self.accepted.call, self.accepted.entry.adapter
        response = await pool.send(call.method, call.path, adapter.headers(call), call.body)
        self._response = response
        if response.status < 400:
            return response
        error = adapter.error(response.status, await response.read(_MAX_ERROR_BYTES))
        if error.retryable:
            raise EngineDeclined(error.message)
        raise RequestRejected(error)

    def _lost(self, lease: Lease, cause: EngineError) -> None:
        """A try that delivered nothing: back into line at the old place, unless it was the last."""
        if self._response is not None:
            self._response.close()
            self._response = None
        self._around.dispatcher.suspect(lease.slots)
        self.lost_to = cause
        self._end_try(lease, Outcome.INTERRUPTED, str(cause))
        if self._given is not None:
            raise rejections.engine_lost(f"{lease.slots.replica_id}: {cause}") from cause
        if len(self._progress.tries) >= MAX_TRIES:
            raise rejections.engine_lost(f"{lease.slots.replica_id} failed {MAX_TRIES} times: {cause}") from cause

    def _end_try(self, lease: Lease, outcome: Outcome, error: str | None) -> None:
        self._lease = None
        now = self._around.clock()
        tries = self._progress.tries
        tries.append(
            AttemptRecord(
                request_id=self.accepted.head.request_id,
                n=len(tries) + 1,
                replica_id=lease.slots.replica_id,
                generation=lease.slots.generation,
                started_at=lease.granted_at,
                finished_at=now,
                outcome=outcome,
                error=error,
            )
        )
        if outcome is Outcome.SUCCEEDED:
            entry = self.accepted.entry
            entry.answer = entry.answer.learn(now - lease.granted_at)
        self._around.dispatcher.release(lease)

    def _without_false_end(self, chunk: bytes) -> bytes:
        """Clients read nothing behind the end mark, so an answer that was broken off must not have one."""
        self._verdict = self._verdict_of_tail()
        return chunk if self._verdict.ending is Ending.COMPLETE else chunk.removesuffix(_END_MARK)

    def _judge_stream(self) -> None:
        self._judge(self._verdict or self._verdict_of_tail())

    def _verdict_of_tail(self) -> Verdict:
        tail = b"".join(self._tail)[-_TAIL_BYTES:]
        return self.accepted.entry.adapter.verdict(tail, stream=True)

    def _judge(self, verdict: Verdict) -> None:
        if verdict.prompt_tokens:
            self._tally.prompt_tokens += verdict.prompt_tokens
        if verdict.completion_tokens:
            self._tally.completion_tokens += verdict.completion_tokens
        self._verdict = verdict
        if verdict.ending is not Ending.COMPLETE:
            raise _broken_off(verdict)

    def _journal_start(self, lease: Lease) -> None:
        """Only for calls that last: a crash leaves a row that says where the call was."""
        attempt = AttemptRecord(
            self.accepted.head.request_id,
            len(self._progress.tries) + 1,
            lease.slots.replica_id,
            lease.slots.generation,
            lease.granted_at,
        )
        self._around.journal.journal_started(RequestStarted(self.accepted.journal, attempt))

    def _record(self, outcome: Outcome, error: RequestRejected | None, status: int) -> None:
        now = self._around.clock()
        created, granted = self.accepted.head.enqueued_at, self._progress.granted_at
        first = self._progress.first_byte_at
        self._tally.outcomes[outcome] += 1
        if granted is not None:
            self._tally.wait_seconds.observe(granted - created)
            if first is not None:
                self._tally.first_byte_seconds.observe(first - granted)
        verdict = self._verdict
        self._around.journal.journal_finished(
            RequestFinished(
                accepted=self.accepted.journal,
                outcome=outcome,
                finished_at=now,
                started_at=granted,
                attempts=tuple(self._progress.tries),
                http_status=status,
                error_code=error.error.code if error else None,
                error_message=error.error.message if error else None,
                prompt_tokens=verdict.prompt_tokens if verdict else None,
                completion_tokens=verdict.completion_tokens if verdict else None,
                wait_seconds=None if granted is None else granted - created,
                first_byte_seconds=None if first is None or granted is None else first - granted,
            )
        )


def _broken_off(verdict: Verdict) -> RequestRejected:
    return rejections.aborted(verdict.message or "the engine broke off its answer")


def _content_type(response: Response) -> bytes:
    for name, value in response.headers:
        if name == b"content-type":
            return value
    return b"application/json"
