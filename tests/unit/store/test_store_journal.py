"""The journal: written behind, coalesced, bounded, and never in anybody's way."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, event
from store_rows import ManualClock, accepted, attempt, engine_of, finished, started

from controlplane.core.model import InferenceType, Outcome, RequestStatus
from controlplane.store.backlog import JournalRow, coalesce, shed
from controlplane.store.database import Place, opened
from controlplane.store.journal import Journal
from controlplane.store.records import Event, JournalLimits, Mode, RequestAccepted, RequestFinished, RequestRecord
from controlplane.store.store import Store
from controlplane.store.writer import Writer


@pytest.fixture
async def statements(place: Place) -> AsyncIterator[tuple[Journal, list[tuple[str, int]]]]:
    """A journal, and the (statement, rows) that it has the database run."""
    database = await opened(place, "the test", 0.0, 0.0)
    ran: list[tuple[str, int]] = []

    def note(_c: object, _u: object, statement: str, rows: object, _x: object, many: bool) -> None:
        if not statement.startswith("BEGIN"):
            ran.append((" ".join(statement.split()[:3]), len(rows) if many and isinstance(rows, list) else 1))

    event.listen(database.writing, "before_cursor_execute", note)
    writer = Writer(database.writing)
    yield Journal(writer, JournalLimits(flush_seconds=3600)), ran
    await writer.close()
    database.close()


async def test_a_short_request_is_one_insert(statements: tuple[Journal, list[tuple[str, int]]]) -> None:
    """Accepted, started and finished within one window are one row, written once, with its attempt."""
    journal, ran = statements
    for n in range(3):
        call = accepted(f"r-{n}")
        for row in (call, started(call), finished(call)):
            journal.append(row)
    await journal.flush()
    assert ran == [("INSERT INTO requests", 3), ("INSERT INTO attempts", 3)]


async def test_every_field_of_a_finished_request_is_kept(store: Store) -> None:
    """A request is read back as it was journalled, each field under its own name."""
    call = RequestAccepted("r", "/v1/embeddings", InferenceType.EMBEDDING, "bge", 7, 10.5, "alice", deadline_at=99.5)
    call = call._replace(stream=True)
    tries = (
        attempt("r", 1, generation=4, started_at=11.5, finished_at=12.5, outcome=Outcome.FAILED, error="it broke"),
        attempt("r", 2, replica_id="bge-1", finished_at=13.5, outcome=Outcome.CANCELLED),
    )
    store.journal_finished(
        RequestFinished(call, Outcome.CANCELLED, 13.5, 11.5, tries, 499, "gone", "client left", 21, 22, 0.25, 0.75)
    )
    await store.flush()
    history = await store.request("r")
    assert history is not None
    assert history.attempts == tries
    assert history.request == RequestRecord(
        request_id="r",
        mode=Mode.SYNC,
        path="/v1/embeddings",
        type=InferenceType.EMBEDDING,
        model_id="bge",
        priority=7,
        status=RequestStatus.CANCELLED,
        outcome=Outcome.CANCELLED,
        created_at=10.5,
        started_at=11.5,
        finished_at=13.5,
        deadline_at=99.5,
        client="alice",
        stream=True,
        attempts=2,
        http_status=499,
        error_code="gone",
        error_message="client left",
        prompt_tokens=21,
        completion_tokens=22,
        wait_seconds=0.25,
        first_byte_seconds=0.75,
    )


async def test_a_long_request_is_seen_on_its_way(store: Store) -> None:
    """Rows flushed between its stages show pending, processing, and the end, in one row."""
    call = accepted("r")
    stages = [
        (store.journal_accepted, call, RequestStatus.PENDING, 0),
        (store.journal_started, started(call), RequestStatus.PROCESSING, 1),
        (store.journal_started, started(call, n=2), RequestStatus.PROCESSING, 2),
        (store.journal_finished, finished(call, Outcome.FAILED), RequestStatus.FAILED, 1),
    ]
    for journal, row, status, tries in stages:
        journal(row)  # type: ignore[operator]
        await store.flush()
        history = await store.request("r")
        assert history is not None
        assert (history.request.status, history.request.attempts) == (status, tries)
    assert len((await store.requests()).requests) == 1


async def test_rows_reach_the_disk_by_themselves(place: Place, clock: ManualClock) -> None:
    """Without any flush, a lone row is written after the window."""
    store = await Store.open(place, holder="me", clock=clock, limits=JournalLimits(flush_seconds=0.01))
    store.journal_accepted(accepted("r"))
    async with asyncio.timeout(30):
        while await store.request("r") is None:
            pass
    await store.close()


async def test_a_crowd_does_not_wait_for_the_window(place: Place, clock: ManualClock) -> None:
    """Enough rows are written at once, however long the window is."""
    limits = JournalLimits(flush_seconds=3600, flush_rows=10)
    store = await Store.open(place, holder="me", clock=clock, limits=limits)
    for n in range(25):
        store.journal_accepted(accepted(f"r-{n}"))
    async with asyncio.timeout(30):
        while len((await store.requests()).requests) < 25:
            pass
    await store.close()


async def test_close_writes_what_waits(place: Place, clock: ManualClock) -> None:
    """An orderly stop loses no row of the journal."""
    store = await Store.open(place, holder="me", clock=clock, limits=JournalLimits(flush_seconds=3600))
    store.journal_finished(finished(accepted("r")))
    store.record_event("stopping", "control plane")
    await store.close()
    store = await Store.open(place, holder="me", clock=clock)
    assert await store.request("r") is not None
    assert [(e.at, e.kind, e.subject) for e in await store.events()] == [(clock.now, "stopping", "control plane")]
    await store.close()


async def test_a_refused_row_does_not_stop_the_others(store: Store) -> None:
    """What the database can never take is counted as dropped; its neighbours are written."""
    bad = [accepted("surrogate", client="\ud800"), accepted("out-of-range", priority=101)]
    good = [accepted(f"r-{n}") for n in range(20)]
    for row in [*good[:5], bad[0], *good[5:15], bad[1], *good[15:]]:
        store.journal_accepted(row)
    store.record_event("odd", "detail", {"x": object()})  # type: ignore[dict-item]
    store.record_event("fine", "detail")
    await store.flush()
    assert {r.request_id for r in (await store.requests()).requests} == {r.request_id for r in good}
    assert [e.kind for e in await store.events()] == ["fine"]
    assert store.journal_dropped == 3
    assert store.healthy


def _holding(place: Place) -> Connection:
    """A foreign tool that holds what our writer needs."""
    foreign = engine_of(place).connect()
    foreign.exec_driver_sql("BEGIN IMMEDIATE" if isinstance(place, Path) else "LOCK TABLE requests IN EXCLUSIVE MODE")
    return foreign


async def test_nobody_waits_while_the_disk_is_taken(store: Store, place: Place) -> None:
    """With the database locked by a foreign tool, journalling and reading go on; all is written after."""
    with _holding(place) as foreign:
        writing = asyncio.ensure_future(store.flush())
        for n in range(1000):
            store.journal_accepted(accepted(f"r-{n}"))
        writing_more = asyncio.ensure_future(store.flush())
        assert (await store.requests()).requests == ()
        assert not writing_more.done()
        foreign.rollback()
    await asyncio.gather(writing, writing_more)
    foreign.engine.dispose()
    assert len((await store.requests(limit=2000)).requests) == 1000


async def test_earlier_lives_requests_read_interrupted(place: Place, clock: ManualClock) -> None:
    """After a death, open sync requests and attempts are ended with a reason; the rest is untouched."""
    store = await Store.open(place, holder="one", clock=clock)
    waiting, running, ended, job = (accepted(name) for name in ("waiting", "running", "ended", "job"))
    store.journal_accepted(waiting)
    store.journal_started(started(running))
    store.journal_finished(finished(ended))
    store.journal_started(started(job._replace(mode=Mode.ASYNC)))
    await store.close()
    store = await Store.open(place, holder="two", clock=clock)
    assert await store.interrupt_open(at=2000.0) == 2
    assert await store.interrupt_open(at=3000.0) == 0
    found = {row.request_id: row for row in (await store.requests()).requests}
    for name in ("waiting", "running"):
        row = found[name]
        assert (row.status, row.outcome, row.finished_at) == (RequestStatus.FAILED, Outcome.INTERRUPTED, 2000.0)
        assert row.error_message is not None
        assert "the control plane stopped while the request was in flight" in row.error_message
    assert found["ended"].outcome is Outcome.SUCCEEDED
    assert found["job"].status is RequestStatus.PROCESSING
    cut = await store.request("running")
    kept = await store.request("job")
    assert cut is not None
    assert kept is not None
    assert [(a.outcome, a.finished_at) for a in cut.attempts] == [(Outcome.INTERRUPTED, 2000.0)]
    assert [(a.outcome, a.finished_at) for a in kept.attempts] == [(None, None)]
    await store.close()


_STAGES: list[Callable[[RequestAccepted], JournalRow]] = [lambda call: call, started, finished]
_rows = st.lists(
    st.one_of(
        st.builds(lambda name, stage: _STAGES[stage](accepted(name)), st.sampled_from("abcdefgh"), st.integers(0, 2)),
        st.builds(lambda at: Event(at, "kind", "subject", {}), st.floats(0, 10)),
    ),
    max_size=40,
)


def _named(row: JournalRow) -> str:
    return "" if isinstance(row, Event) else row.request_id if isinstance(row, RequestAccepted) else row[0].request_id


@given(_rows, st.integers(0, 40))
def test_shedding_keeps_requests_in_flight_and_the_newest_ends(rows: list[JournalRow], target: int) -> None:
    """Nothing in flight is forgotten, nothing is forgotten without need or count, and the oldest go first."""
    left, lost = shed(rows, target)
    ends = {_named(row) for row in rows if isinstance(row, RequestFinished)}
    in_flight = [row for row in rows if not isinstance(row, Event | RequestFinished) and _named(row) not in ends]
    droppable = [row for row in rows if isinstance(row, Event | RequestFinished)]
    assert [row for row in left if not isinstance(row, Event | RequestFinished)] == in_flight
    assert [row for row in left if isinstance(row, Event | RequestFinished)] == droppable[lost:]
    assert lost == min(len(droppable), max(0, len(in_flight) + len(droppable) - target))


@given(_rows)
def test_coalescing_keeps_the_last_word_on_everything(rows: list[JournalRow]) -> None:
    """Each request is left with its last row, each event once, and no attempt is forgotten."""
    backlog = coalesce(rows)
    assert backlog.requests == {_named(row): row for row in rows if not isinstance(row, Event)}
    assert backlog.events == [row for row in rows if isinstance(row, Event)]
    tried = {_named(row) for row in rows if not isinstance(row, Event | RequestAccepted)}
    assert {request_id for request_id, _ in backlog.attempts} == tried
