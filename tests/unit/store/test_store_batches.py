"""Files and batches in the store, on both databases: states, lines taken once, counts, what must stay."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from store_rows import ManualClock, accepted, finished

from controlplane.core.model import Outcome
from controlplane.store.batch_records import (
    BatchEnd,
    BatchRecord,
    BatchStatus,
    FileRecord,
    LineProblem,
    Purpose,
    TakenLine,
    Taking,
)
from controlplane.store.errors import KeyReused
from controlplane.store.records import IdempotencyClaim, JobDraft, JobEnd, Mode
from controlplane.store.store import Store


def file_row(file_id: str = "in", at: float = 1000.0, **fields: object) -> FileRecord:
    row = FileRecord(file_id, "alice", Purpose.BATCH, "in.jsonl", 10, at)
    return replace(row, **fields)  # type: ignore[arg-type]


def batch_row(batch_id: str = "b", at: float = 1000.0, **fields: object) -> BatchRecord:
    row = BatchRecord(batch_id, "alice", "/v1/chat/completions", "in", at, at + 86400.0)
    return replace(row, **fields)  # type: ignore[arg-type]


def job_line(request_id: str) -> TakenLine:
    return TakenLine(f"custom {request_id}", JobDraft(accepted(request_id, mode=Mode.ASYNC), b"{}"))


REFUSED = TakenLine("custom refused", refusal=(404, b'{"error": {}}'))


async def started(store: Store, total: int, lines: Sequence[TakenLine] = ()) -> None:
    """A batch in progress, with these lines taken."""
    await store.files.add(file_row())
    assert await store.batches.create(batch_row(), None) == batch_row()
    assert await store.batches.begin("b", total)
    assert await store.batches.take(Taking("b", 0, 100, lines))


async def end_job(store: Store, request_id: str, outcome: Outcome = Outcome.SUCCEEDED, status: int = 200) -> None:
    row = finished(accepted(request_id, mode=Mode.ASYNC), outcome, http_status=status)
    assert await store.finish_job(JobEnd(row, b'{"of": "%s"}' % request_id.encode()))


async def found(store: Store) -> BatchRecord:
    row = await store.batches.one("b")
    assert row is not None
    return row


async def test_a_batch_goes_through_its_states(store: Store, clock: ManualClock) -> None:
    """Each state is entered once, from those it may follow, with its time; the files come with the last one."""
    await started(store, 1, [REFUSED])
    assert not await store.batches.begin("b", 5)
    clock.now = 1001.0
    assert await store.batches.finalize("b")
    assert not await store.batches.cancel("b")
    output = file_row("out", purpose=Purpose.BATCH_OUTPUT)
    end = BatchEnd("b", BatchStatus.COMPLETED, 1002.0, 3, 4, None, output)
    assert await store.batches.finish(end)
    assert not await store.batches.finish(end)

    row = await found(store)
    assert row.stamps == {"in_progress": 1000.0, "finalizing": 1001.0, "completed": 1002.0}
    assert (row.status, row.total, row.completed, row.failed) == (BatchStatus.COMPLETED, 1, 3, 4)
    assert (row.output_file_id, row.error_file_id) == (None, "out")
    assert await store.files.one("out") == output
    assert await store.batches.not_over() == []


async def test_a_batch_with_a_bad_file_fails_with_its_problems(store: Store) -> None:
    """What is wrong is kept; nothing follows."""
    await store.files.add(file_row())
    await store.batches.create(batch_row(metadata={"a": "ä"}), None)
    problems = (LineProblem("bad", "it is bad", 3, "url"), LineProblem("empty_file", "nothing"))
    assert await store.batches.refuse("b", problems)
    assert not await store.batches.begin("b", 1)
    row = await found(store)
    assert (row.status, row.errors, row.metadata) == (BatchStatus.FAILED, problems, {"a": "ä"})


async def test_lines_are_taken_once_with_their_jobs(store: Store) -> None:
    """Taking moves on in the file with the jobs, in one commit: the same bytes again, or after a cancel, do nothing."""
    await started(store, 4, [job_line("r1"), REFUSED, job_line("r2")])
    again = Taking("b", 0, 100, [job_line("r3")])
    assert not await store.batches.take(again)
    assert [head.request_id for head in await store.waiting_jobs(50, None, 10)] == ["r1", "r2"]
    row = await found(store)
    assert (row.read_lines, row.read_bytes, row.failed) == (3, 100, 1)
    assert await store.batches.cancel("b")
    assert not await store.batches.take(Taking("b", 100, 200, [job_line("r3")]))
    assert [row.request_id for row in await store.batches.not_ended("b", 10)] == ["r1", "r2"]


async def test_ends_are_counted_with_their_outcome(store: Store) -> None:
    """Each end of a line's job counts once, in its transaction; the last one is told; other jobs count nowhere."""
    told: list[str] = []
    store.batches.on_ended = lambda: told.append("over")
    await started(store, 3, [job_line("r1"), REFUSED, job_line("r2")])
    await store.accept_job(JobDraft(accepted("other", mode=Mode.ASYNC), b"{}"))
    await end_job(store, "other")
    await end_job(store, "r1")
    row = finished(accepted("r1", mode=Mode.ASYNC), http_status=200)
    assert not await store.finish_job(JobEnd(row, b"{}"))
    assert (told, (await found(store)).completed) == ([], 1)
    await end_job(store, "r2", Outcome.EXPIRED, 503)

    row = await found(store)
    assert (told, row.completed, row.failed) == (["over"], 1, 2)
    assert await store.batches.expired("b") == 1
    ends = await store.batches.ends("b", 0, 2) + await store.batches.ends("b", 2, 2)
    assert [(e.n, e.custom_id, e.http_status, e.outcome) for e in ends] == [
        (1, "custom r1", 200, Outcome.SUCCEEDED),
        (2, "custom refused", 404, None),
        (3, "custom r2", 503, Outcome.EXPIRED),
    ]
    assert [e.body for e in ends] == [b'{"of": "r1"}', b'{"error": {}}', b'{"of": "r2"}']


async def test_a_batch_keeps_what_it_needs(store: Store, clock: ManualClock) -> None:
    """While it is open neither its input nor its ended jobs go; afterwards both may, and its lines are forgotten."""
    await started(store, 1, [job_line("r1")])
    await end_job(store, "r1")
    clock.now = 1e9
    assert not await store.files.remove("in")
    await store.prune(before=1e9, keep=0)
    assert [each.body for each in await store.batches.ends("b", 0, 9)] == [b'{"of": "r1"}']
    await store.batches.clear_lines()
    assert len(await store.batches.ends("b", 0, 9)) == 1

    assert await store.batches.finish(BatchEnd("b", BatchStatus.COMPLETED, 1e9, 1, 0))
    await store.batches.clear_lines()
    assert await store.batches.ends("b", 0, 9) == []
    await store.prune(before=1e9, keep=0)
    assert await store.request("r1") is None
    assert await store.batches.one("b") is None
    assert await store.files.remove("in")
    assert await store.files.one("in") is None


async def test_files_expire_unless_a_batch_reads_them(store: Store, clock: ManualClock) -> None:
    """Those whose time is over go, and which ones is told."""
    for file_id, expires_at in (("in", 1001.0), ("old", 1002.0), ("new", 5000.0), ("ever", None)):
        await store.files.add(file_row(file_id, expires_at=expires_at))
    await store.batches.create(batch_row(), None)
    clock.now = 2000.0
    assert await store.files.remove_expired() == ["old"]
    assert await store.files.remove_expired() == []
    assert await store.files.known(["in", "old", "new", "ever", "none"]) == {"in", "new", "ever"}


@pytest.mark.parametrize("newest", [True, False])
async def test_pages_give_each_once_in_order(store: Store, newest: bool) -> None:
    """Of one client and purpose, each page behind the last of the one before; equal times are told apart by id."""
    for n in range(7):
        await store.files.add(file_row(f"f{n}", at=1000.0 + n // 3))
    await store.files.add(file_row("bob's", client="bob"))
    await store.files.add(file_row("output", purpose=Purpose.BATCH_OUTPUT))
    seen: list[str] = []
    while page := await store.files.page("alice", Purpose.BATCH, seen[-1] if seen else None, 2, newest=newest):
        seen += [row.file_id for row in page]
    expected = [f"f{n}" for n in range(7)]
    assert seen == (expected[::-1] if newest else expected)
    assert await store.files.page(None, None, "nobody", 9, newest=newest) == []
    assert len(await store.files.page(None, None, None, 99, newest=newest)) == 9


async def test_batches_are_listed_newest_first(store: Store) -> None:
    """Of one client, page by page."""
    await store.files.add(file_row())
    for n in range(3):
        await store.batches.create(batch_row(f"b{n}", at=1000.0 + n), None)
    await store.batches.create(batch_row("bob's", client="bob"), None)
    assert [row.batch_id for row in await store.batches.page("alice", None, 2)] == ["b2", "b1"]
    assert [row.batch_id for row in await store.batches.page("alice", "b1", 2)] == ["b0"]
    assert len(await store.batches.page(None, None, 9)) == 4


async def test_a_key_stands_for_one_batch(store: Store) -> None:
    """The same key gives the first batch as it is now, other work is refused, and without a file there is none."""
    claim = IdempotencyClaim("alice", "k", "same")
    assert await store.batches.create(batch_row(), None) is None
    await store.files.add(file_row())
    await store.batches.create(batch_row(), claim)
    await store.batches.cancel("b")
    again = await store.batches.create(batch_row("b2"), claim)
    assert again is not None
    assert (again.batch_id, again.status) == ("b", BatchStatus.CANCELLING)
    with pytest.raises(KeyReused):
        await store.batches.create(batch_row("b3"), IdempotencyClaim("alice", "k", "other"))
    assert await store.batches.one("b2") is None
