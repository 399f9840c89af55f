"""Jobs in the store: accepted whole, begun by one, ended once, and found again in their order."""

import asyncio
from typing import Any

import pytest
from store_rows import ManualClock, accepted, finished

from controlplane.core.model import Outcome, RequestStatus
from controlplane.store.deliveries import DeliveryState
from controlplane.store.errors import KeyReused, RowRefused
from controlplane.store.records import (
    CallbackDraft,
    IdempotencyClaim,
    JobDraft,
    JobEnd,
    JobStart,
    Mode,
    RequestAccepted,
    RequestFilter,
)
from controlplane.store.store import Store


def job(request_id: str, created_at: float = 1000.0, **fields: Any) -> RequestAccepted:
    return accepted(request_id, created_at, mode=Mode.ASYNC, **fields)


def draft(request_id: str, created_at: float = 1000.0, **fields: Any) -> JobDraft:
    of_row = {name: fields.pop(name) for name in ("priority", "model_id") if name in fields}
    return JobDraft(job(request_id, created_at, **of_row), b'{"n":1}', **fields)


async def begun(store: Store, request_id: str) -> JobStart:
    start = await store.start_job(request_id, "llm-0", 1)
    assert start is not None
    return start


def end(start: JobStart, outcome: Outcome = Outcome.SUCCEEDED, **fields: Any) -> JobEnd:
    attempt = start.attempt._replace(finished_at=1002.0, outcome=outcome)
    return JobEnd(finished(start.accepted, outcome, attempts=(attempt,)), **fields)


async def test_an_accepted_job_is_whole(store: Store) -> None:
    """Row, payload, tags and pictures are there as soon as it is accepted, and it waits."""
    wanted = draft(
        "r", callback=CallbackDraft("http://a/b"), tags=("x", "y"), pictures=("p.png",), rows=3, batch_key="k"
    )
    assert await store.accept_job(wanted) == "r"

    view = await store.job("r")
    assert view is not None
    assert view.accepted == wanted.accepted
    assert (view.history.request.status, view.history.request.outcome) == (RequestStatus.PENDING, None)
    assert (view.tags, view.callback_url) == (("x", "y"), "http://a/b")
    assert await store.pictures_needed() == [("r", "p.png")]
    assert await store.waiting_jobs(50, None, 10, ["llm"]) == [view.head]
    assert (view.head.rows, view.head.key) == (3, "k")
    assert (await begun(store, "r")).payload == wanted.payload


async def test_one_bad_draft_does_not_harm_its_group(store: Store) -> None:
    """Accepted in one turn of the loop: only the one that the database refuses fails."""
    drafts = [draft("a"), draft("b", priority=101), draft("c"), draft("a")]
    results = await asyncio.gather(*(store.accept_job(each) for each in drafts), return_exceptions=True)

    assert [results[0], results[2]] == ["a", "c"]
    assert isinstance(results[1], RowRefused)
    assert isinstance(results[3], RowRefused)
    assert [head.request_id for head in await store.waiting_jobs(50, None, 10)] == ["a", "c"]


async def test_a_key_stands_for_one_job(store: Store) -> None:
    """The same key and work give the first job, also in the same turn; other work under it is refused."""
    claim, other = IdempotencyClaim("me", "k", "same"), IdempotencyClaim("me", "k", "other")
    drafts = [draft("a", idempotency=claim), draft("b", idempotency=claim), draft("c", idempotency=other)]
    results = await asyncio.gather(*(store.accept_job(each) for each in drafts), return_exceptions=True)

    assert results[:2] == ["a", "a"]
    assert isinstance(results[2], KeyReused)
    assert await store.accept_job(draft("d", idempotency=claim)) == "a"
    assert [head.request_id for head in await store.waiting_jobs(50, None, 10)] == ["a"]


async def test_a_job_is_begun_by_one_only(store: Store) -> None:
    """Two at the same time: one gets it. What is not waiting is not begun."""
    await store.accept_job(draft("r"))
    starts = await asyncio.gather(*(store.start_job("r", "llm-0", 1) for _ in range(2)))

    assert [start is None for start in starts] == [False, True]
    assert await store.start_job("nobody", "llm-0", 1) is None
    view = await store.job("r")
    assert view is not None
    assert (view.history.request.status, view.history.request.attempts) == (RequestStatus.PROCESSING, 1)


async def test_a_job_that_is_put_back_keeps_its_place_and_its_tries(store: Store) -> None:
    """It waits where it was, and its next try knows the earlier ones."""
    for name, at in (("a", 1.0), ("b", 2.0)):
        await store.accept_job(draft(name, at))
    first = await begun(store, "a")
    assert [head.request_id for head in await store.waiting_jobs(50, None, 10)] == ["b"]

    ended = first.attempt._replace(finished_at=1002.0, outcome=Outcome.INTERRUPTED, error="gone")
    assert await store.put_job_back(ended)
    assert not await store.put_job_back(ended)

    assert [head.request_id for head in await store.waiting_jobs(50, None, 10)] == ["a", "b"]
    second = await begun(store, "a")
    assert second.tries == (ended,)
    assert second.attempt.n == 2


async def test_a_job_ends_once_with_all_that_hangs_on_it(store: Store, clock: ManualClock) -> None:
    """Outcome, result and callback appear together, payload and pictures go; a second end changes nothing."""
    await store.accept_job(draft("r", callback=CallbackDraft("http://a/b", "s"), tags=("t",), pictures=("p.png",)))
    start = await begun(store, "r")
    first = end(start, result=b'{"text":"x"}', notice=b'{"n":1}')
    second = end(start, Outcome.FAILED, result=b'{"text":"y"}', notice=b'{"n":2}')
    assert await asyncio.gather(store.finish_job(first), store.finish_job(second)) == [True, False]

    view = await store.job("r")
    assert view is not None
    assert (view.history.request.outcome, view.history.request.attempts) == (Outcome.SUCCEEDED, 1)
    assert [attempt.outcome for attempt in view.history.attempts] == [Outcome.SUCCEEDED]
    assert await store.job_result("r") == b'{"text":"x"}'
    assert await store.pictures_needed() == []
    page = await store.outbox.page(DeliveryState.PENDING)
    assert [(each.request_id, each.url) for each in page.deliveries] == [("r", "http://a/b")]
    assert await store.start_job("r", "llm-0", 1) is None
    assert not await store.set_job_priority("r", 1)


async def test_jobs_in_flight_are_found(store: Store) -> None:
    """What has a try under way, with the outcomes of its earlier tries; what waits or ended is not among them."""
    for name in ("a", "b", "c"):
        await store.accept_job(draft(name, rows=2, batch_key="k"))
    first = await begun(store, "a")
    await store.put_job_back(first.attempt._replace(finished_at=1002.0, outcome=Outcome.INTERRUPTED))
    second = await begun(store, "a")
    await store.finish_job(end(await begun(store, "b")))

    (found,) = await store.jobs_in_flight()

    assert (found.attempt, found.outcomes) == (second.attempt, (Outcome.INTERRUPTED,))
    assert (found.head.request_id, found.head.rows, found.head.key) == ("a", 2, "k")


async def test_the_line_is_read_in_order_and_in_parts(store: Store) -> None:
    """By priority, each in the order of acceptance, page by page; a new priority moves a job."""
    for n in range(10):
        await store.accept_job(draft(f"r{n}", float(n // 3), priority=50 if n % 2 else 70))
    await store.set_job_priority("r4", 50)

    assert await store.waiting_job_priorities() == [70, 50]
    line, last = [], None
    while page := await store.waiting_jobs(50, last, 2):
        line += [head.request_id for head in page]
        last = page[-1]
    assert line == ["r1", "r3", "r4", "r5", "r7", "r9"]


async def test_jobs_are_listed_by_tag(store: Store) -> None:
    """With a cursor, and with other conditions."""
    for n in range(4):
        await store.accept_job(draft(f"r{n}", float(n), tags=("even" if n % 2 == 0 else "odd", "all")))
    await begun(store, "r2")

    first = await store.requests(RequestFilter(tag="all"), limit=3)
    rest = await store.requests(RequestFilter(tag="all"), first.next_cursor, limit=3)
    assert [row.request_id for row in (*first.requests, *rest.requests)] == ["r3", "r2", "r1", "r0"]
    running = await store.requests(RequestFilter(tag="even", status=RequestStatus.PROCESSING, mode=Mode.ASYNC))
    assert [row.request_id for row in running.requests] == ["r2"]
    assert await store.tags(["r0", "r1", "none"]) == {"r0": ("all", "even"), "r1": ("all", "odd")}


async def test_pruning_takes_all_of_an_ended_job_and_nothing_of_an_open_one(store: Store) -> None:
    """Results and tags go with the row; an open job stays whole whatever its age."""
    for name in ("old", "open"):
        await store.accept_job(draft(name, 1.0, tags=("t",), pictures=("p.png",)))
    await store.finish_job(end(await begun(store, "old"), result=b"{}"))
    await store.prune(before=2000.0, keep=0)

    assert await store.job("old") is None
    assert await store.job_result("old") is None
    assert await store.tags(["old", "open"]) == {"open": ("t",)}
    assert await store.pictures_needed() == [("open", "p.png")]


async def test_sync_calls_are_no_jobs(store: Store) -> None:
    """The end of a life interrupts calls and leaves jobs alone; no order about a job touches a call."""
    store.journal_accepted(accepted("call"))
    await store.flush()
    await store.accept_job(draft("r"))
    await begun(store, "r")

    assert await store.interrupt_open(1003.0) == 1

    (found,) = await store.jobs_in_flight()
    assert found.head.request_id == "r"
    assert not await store.set_job_priority("call", 1)
    assert await store.start_job("call", "llm-0", 1) is None


async def test_the_end_of_a_job_ends_its_tries(store: Store) -> None:
    """One that had begun when the job was ended from elsewhere does not stay open."""
    await store.accept_job(draft("r"))
    start = await begun(store, "r")
    await store.finish_job(JobEnd(finished(start.accepted, Outcome.CANCELLED, attempts=())))

    view = await store.job("r")
    assert view is not None
    (only,) = view.history.attempts
    assert (only.outcome, only.finished_at) == (Outcome.CANCELLED, 1002.0)


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.EXPIRED])
async def test_a_job_may_end_without_a_try(store: Store, outcome: Outcome) -> None:
    """Cancelled or expired while it waited: no attempt, no result, and it is not begun any more."""
    await store.accept_job(draft("r"))
    assert await store.finish_job(JobEnd(finished(job("r"), outcome, attempts=(), started_at=None)))

    view = await store.job("r")
    assert view is not None
    assert (view.history.request.outcome, view.history.attempts) == (outcome, ())
    assert await store.start_job("r", "llm-0", 1) is None
