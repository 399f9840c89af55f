"""The store's front: what the rest of the control plane may ask of the disk.

Durable calls return when their commit is on disk; `journal_*` and `record_event`
only append and are written behind. SQL lives in the modules that this one calls.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from sqlalchemy import Connection

from controlplane.core.model import Intent, RequestHead
from controlplane.ports import Clock
from controlplane.store import events, history, intents, jobs, load_times, replicas, retention, totals
from controlplane.store.acceptance import Acceptance
from controlplane.store.batch_edges import Batches, Files
from controlplane.store.database import Database, Place, opened
from controlplane.store.edges import Keys, Outbox
from controlplane.store.errors import mapped
from controlplane.store.jobs import InFlight
from controlplane.store.journal import Journal
from controlplane.store.records import (
    AttemptRecord,
    Event,
    EventDraft,
    EventRecord,
    JobDraft,
    JobEnd,
    JobStart,
    JobView,
    JournalLimits,
    JsonValue,
    LoadTier,
    LoadTime,
    Page,
    ReplicaChange,
    ReplicaRecord,
    RequestAccepted,
    RequestFilter,
    RequestFinished,
    RequestHistory,
    RequestStarted,
)
from controlplane.store.totals import Total
from controlplane.store.writer import Writer

T = TypeVar("T")

_READERS = 2


class Store:
    """One control plane's memory. Made by `open`, by one event loop, and used from that loop only.

    Every method may raise StoreFailure; then nothing of that call took effect.
    """

    def __init__(self, database: Database, clock: Clock, limits: JournalLimits) -> None:
        self._database = database
        self._clock = clock
        self._writer = Writer(database.writing)
        self._journal = Journal(self._writer, limits)
        self._acceptance = Acceptance(self._writer)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-reader")
        self.outbox = Outbox(self._writer, self._read, clock)
        self.keys = Keys(self._writer, self._read, clock)
        self.files = Files(self._writer, self._read, clock)
        self.batches = Batches(self._writer, self._read, clock)

    @classmethod
    async def open(
        cls,
        place: Place,
        *,
        holder: str,
        clock: Clock,
        wait_seconds: float = 0.0,
        limits: JournalLimits | None = None,
    ) -> Self:
        """Take the store at `place` for `holder` and bring its schema up to date.

        Raises StoreHeld naming the other holder once `wait_seconds` have passed, and
        StoreFailure when the file is no store, or was written by a newer version.
        """
        database = await opened(place, holder, clock(), wait_seconds)
        return cls(database, clock, limits or JournalLimits())

    async def close(self) -> None:
        """Write what the journal holds, then let go of the files and the lock.

        Raises StoreFailure when the last rows could not be written; the rest is closed even so.
        """
        try:
            await self._journal.close()
        finally:
            await self._writer.close()
            await asyncio.to_thread(self._readers.shutdown)
            await asyncio.to_thread(self._database.close)

    @property
    def healthy(self) -> bool:
        """Whether the last commit reached the disk; false means: refuse new work for now."""
        return self._writer.failure is None

    @property
    def failure(self) -> str | None:
        """Why the last commit failed; None when healthy."""
        return self._writer.failure

    @property
    def journal_dropped(self) -> int:
        """Rows of history lost because the disk was away too long or refused them."""
        return self._journal.dropped

    async def commit_replicas(self, changes: Sequence[ReplicaChange]) -> None:
        """Write all of `changes` with their reservations and events, or none.

        Raises StaleWrite naming the first row that was not as expected.
        """
        at = self._clock()
        await self._writer.commit(lambda connection: replicas.write(connection, changes, at))

    async def replicas(self) -> list[ReplicaRecord]:
        """Every replica's row, ordered by id."""
        return await self._read("read the replicas", replicas.read)

    async def delete_replica(self, replica_id: str, generation: int, event: EventDraft | None = None) -> None:
        """Remove a row and its reservation; StaleWrite when it is not at `generation`."""
        at = self._clock()
        await self._writer.commit(lambda connection: replicas.delete(connection, replica_id, generation, event, at))

    async def set_intent(self, model_id: str, intent: Intent, event: EventDraft | None = None) -> None:
        """Replace what the operator asked for; an empty `Intent()` removes the row."""
        at = self._clock()
        await self._writer.commit(lambda connection: intents.write(connection, model_id, intent, event, at))

    async def intents(self) -> dict[str, Intent]:
        """What the operator asked for, by model id."""
        return await self._read("read the intents", intents.read)

    async def record_load(
        self, model_id: str, config_hash: str, tier: LoadTier, seconds: float, peak_mib: int
    ) -> LoadTime:
        """Learn from one load; returns the figures that hold from now on."""
        at = self._clock()
        sample = LoadTime(model_id, config_hash, tier, 1, seconds, peak_mib, at)
        return await self._writer.commit(lambda connection: load_times.learn(connection, sample))

    async def load_times(self) -> list[LoadTime]:
        return await self._read("read the load times", load_times.read)

    def journal_accepted(self, row: RequestAccepted) -> None:
        """Note a call behind its response: never waits, never raises for the disk."""
        self._journal.append(row)

    def journal_started(self, row: RequestStarted) -> None:
        self._journal.append(row)

    def journal_finished(self, row: RequestFinished) -> None:
        self._journal.append(row)

    def record_event(self, kind: str, subject: str, detail: Mapping[str, JsonValue] | None = None) -> None:
        """Note an event that belongs to no transaction, behind like the requests."""
        self._journal.append(Event(self._clock(), kind, subject, detail or {}))

    async def flush(self) -> None:
        """Return when everything journalled so far is on disk."""
        await self._journal.flush()

    async def interrupt_open(self, at: float) -> int:
        """End the sync requests that an earlier life left open; returns how many.

        For boot, before the first journal call: later it would end live requests.
        """
        return await self._writer.commit(lambda connection: history.interrupt_open(connection, at))

    def accept_job(self, draft: JobDraft) -> "asyncio.Future[str]":
        """Done once the job is on disk: its id, or that of the job its idempotency key stands for already.

        Fails with KeyReused when the key stands for other work. A write that has begun cannot be taken back.
        """
        return self._acceptance.submit(draft)

    async def start_job(self, request_id: str, replica_id: str, generation: int) -> JobStart | None:
        """Begin the next try of a waiting job there; None when it is not waiting any more."""
        at = self._clock()
        return await self._writer.commit(lambda c: jobs.start(c, request_id, replica_id, generation, at))

    async def put_job_back(self, attempt: AttemptRecord) -> bool:
        """The try ended and the job waits again, at its old place; False when it does not run any more."""
        return await self._writer.commit(lambda connection: jobs.put_back(connection, attempt))

    async def finish_job(self, end: JobEnd) -> bool:
        """The outcome, the result and what is due to others, in one commit; False when the job is not open."""
        finished = await self._writer.commit(lambda connection: jobs.finish(connection, end))
        if finished.told:
            self.outbox.on_due()
        if finished.batch_ended:
            self.batches.on_ended()
        return finished.ended

    async def set_job_priority(self, request_id: str, priority: int) -> bool:
        """False when the job is not open."""
        return await self._writer.commit(lambda connection: jobs.set_priority(connection, request_id, priority))

    async def jobs_in_flight(self) -> list[InFlight]:
        """The jobs that have a try under way, in the order of its start."""
        return await self._read("read the running jobs", jobs.in_flight)

    async def waiting_job_priorities(self) -> list[int]:
        """The priorities in which jobs wait, highest first."""
        return await self._read("read the priorities of the queue", jobs.waiting_priorities)

    async def waiting_jobs(
        self, priority: int, after: RequestHead | None, limit: int, batched: Sequence[str] = ()
    ) -> list[RequestHead]:
        """The next waiting jobs of one priority, in order, after that one."""
        place = (after.enqueued_at, after.request_id) if after is not None else None
        return await self._read("read the queue", lambda c: jobs.waiting_heads(c, priority, place, limit, batched))

    async def job(self, request_id: str) -> JobView | None:
        """One request with what belongs to it as a job; None when unknown (or not flushed yet)."""
        return await self._read("read the job", lambda connection: jobs.view(connection, request_id))

    async def job_result(self, request_id: str) -> bytes | None:
        """The body of its answer, as JSON; None where there is none."""
        return await self._read("read the result", lambda connection: jobs.result(connection, request_id))

    async def tags(self, request_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Tags of those that have any."""
        return await self._read("read the tags", lambda connection: jobs.tags_of(connection, request_ids))

    async def totals(self, at: float) -> list[Total]:
        """The requests accepted at `at` or later, counted by model and status."""
        return await self._read("count the requests", lambda connection: totals.since(connection, at))

    async def pictures_needed(self) -> list[tuple[str, str]]:
        """The artifacts that open jobs need: request id and name of each."""
        return await self._read("read the pictures", jobs.pictures_needed)

    async def requests(self, wanted: RequestFilter | None = None, cursor: str | None = None, limit: int = 100) -> Page:
        """Requests newest first. Raises ValueError for a cursor that no page gave."""
        position = history.decode_cursor(cursor) if cursor else None
        wanted = wanted or RequestFilter()
        return await self._read("list the requests", lambda c: history.page(c, wanted, position, limit))

    async def request(self, request_id: str) -> RequestHistory | None:
        """One request with its attempts; None when unknown (or not flushed yet)."""
        return await self._read("read the request", lambda connection: history.one(connection, request_id))

    async def events(self, after_id: int = 0, limit: int = 100) -> list[EventRecord]:
        """Events with an id over `after_id`, oldest first."""
        return await self._read("read the events", lambda connection: events.read(connection, after_id, limit))

    async def prune(self, before: float, keep: int) -> int:
        """Delete ended requests and events older than `before`, or beyond the newest `keep` of each.

        With them go the callbacks that ended before `before`, and idempotency keys whose time is over.
        Works in small transactions so that nobody waits long behind it; returns rows deleted.
        """
        removed = 0
        now = self._clock()
        for sweep in await self._read("plan the pruning", lambda c: retention.sweeps(c, before, keep, now)):
            while count := await self._writer.commit(sweep):
                removed += count
        return removed

    async def backup(self, target: Path) -> None:
        """Copy the store, as of now, to a new file. Raises StoreFailure if `target` exists."""
        await self._journal.flush()
        await self._in_reader(lambda: self._database.backup(target))

    async def checkpoint(self) -> None:
        """Move the write-ahead log into the database file and empty it."""
        await self._writer.exclusively(self._database.checkpoint)

    async def _read(self, action: str, query: Callable[[Connection], T]) -> T:
        def run() -> T:
            with mapped(action), self._database.reading.begin() as connection:
                return query(connection)

        return await self._in_reader(run)

    async def _in_reader(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, job)
