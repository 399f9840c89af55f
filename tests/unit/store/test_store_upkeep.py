"""Listing, retention, backup and checkpoint."""

from pathlib import Path

import pytest
from sqlalchemy import func, select
from store_rows import ManualClock, accepted, create, finished, replica

from controlplane.core.model import Outcome, RequestStatus
from controlplane.errors import StoreFailure
from controlplane.store.records import RequestFilter
from controlplane.store.store import Store
from controlplane.store.tables import attempts
from tests.fakes.postgres_server import Server


async def _fill(store: Store, count: int) -> None:
    for n in range(count):
        call = accepted(f"r-{n:04}", created_at=1000.0 + n // 3)
        call = call._replace(model_id="llm" if n % 2 else "sd", client="alice" if n % 5 else None)
        store.journal_finished(finished(call, Outcome.FAILED if n % 7 == 0 else Outcome.SUCCEEDED))
    await store.flush()


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (RequestFilter(), lambda n: True),
        (RequestFilter(model_id="llm"), lambda n: n % 2),
        (RequestFilter(status=RequestStatus.FAILED), lambda n: n % 7 == 0),
        (RequestFilter(outcome=Outcome.SUCCEEDED, client="alice"), lambda n: n % 7 and n % 5),
        (RequestFilter(model_id="nobody"), lambda n: False),
    ],
)
async def test_pages_give_each_match_once_newest_first(store: Store, wanted: RequestFilter, matches: object) -> None:
    """Following the cursor gives every match exactly once, in order, with the last page saying so."""
    assert callable(matches)
    await _fill(store, 50)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.requests(wanted, cursor, limit=7)
        seen += [row.request_id for row in page.requests]
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page.requests) == 7
    assert seen == [f"r-{n:04}" for n in reversed(range(50)) if matches(n)]


@pytest.mark.parametrize("cursor", ["x", "12", "nan,r", "inf,r", ",r"])
async def test_made_up_cursors_are_refused(store: Store, cursor: str) -> None:
    """A cursor that no page gave is the caller's mistake, and told as such."""
    with pytest.raises(ValueError, match="unknown cursor"):
        await store.requests(cursor=cursor)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        await store.requests(limit=0)


async def test_pruning_by_age_spares_what_is_open(store: Store) -> None:
    """Ended requests and events from before the cut go, with their attempts; open ones never do."""
    await _fill(store, 30)
    store.journal_accepted(accepted("open", created_at=1.0))
    await store.flush()
    assert await store.prune(before=1005.0, keep=1000) == 15
    left = [row.request_id for row in (await store.requests()).requests]
    assert left == [*(f"r-{n:04}" for n in reversed(range(15, 30))), "open"]
    assert await store.request("r-0000") is None


async def test_pruning_by_count_goes_through_many_batches(store: Store) -> None:
    """The newest `keep` stay, however many there were, and no attempt stays without its request."""
    await _fill(store, 1800)
    assert await store.prune(before=0.0, keep=100) == 1700
    assert len((await store.requests(limit=1000)).requests) == 100
    kept = await store._read("count", lambda connection: connection.scalar(select(func.count()).select_from(attempts)))
    assert kept == 100


async def test_pruned_event_ids_are_not_used_again(store: Store, clock: ManualClock) -> None:
    """A reader that follows the log by id misses nothing after a pruning, even of everything."""
    for n in range(10):
        clock.now = 1000.0 + n
        store.record_event("tick", str(n))
    await store.flush()
    assert await store.prune(before=1004.0, keep=100) == 4
    assert [event.id for event in await store.events()] == [5, 6, 7, 8, 9, 10]
    assert await store.prune(before=0.0, keep=2) == 4
    assert await store.prune(before=5000.0, keep=2) == 2
    store.record_event("tick", "after")
    await store.flush()
    assert [event.id for event in await store.events(after_id=10)] == [11]


async def test_backup_is_a_store_of_its_own(file_store: Store, path: Path, clock: ManualClock) -> None:
    """The copy holds everything up to now, the journal too, opens like any store, and is one file."""
    await file_store.commit_replicas([create(replica())])
    file_store.journal_finished(finished(accepted("r")))
    target = path.with_name("copy.db")
    await file_store.backup(target)
    assert {p.name for p in path.parent.iterdir() if p.name.startswith("copy")} == {"copy.db"}
    copy = await Store.open(target, holder="the copy", clock=clock)
    assert await copy.replicas() == [replica()]
    assert await copy.request("r") is not None
    await copy.close()


async def test_backup_overwrites_nothing(file_store: Store, tmp_path: Path) -> None:
    """An existing file, or a folder that is missing, is refused by name, and nothing is left behind."""
    taken = tmp_path / "taken.db"
    taken.write_text("precious")
    with pytest.raises(StoreFailure, match=r"cannot back up to .*taken\.db: it exists"):
        await file_store.backup(taken)
    with pytest.raises(StoreFailure, match="cannot back up to"):
        await file_store.backup(tmp_path / "missing" / "copy.db")
    assert taken.read_text() == "precious"
    assert not list(tmp_path.glob("*.partial"))


async def test_checkpoint_empties_the_log(file_store: Store, path: Path) -> None:
    """After it, the write-ahead log takes no room and the rows are in the file."""
    await _fill(file_store, 100)
    log = path.with_name(path.name + "-wal")
    assert log.stat().st_size > 0
    await file_store.checkpoint()
    assert log.stat().st_size == 0
    assert len((await file_store.requests()).requests) == 100


async def test_a_server_is_backed_up_with_its_own_tool(server: Server, clock: ManualClock, tmp_path: Path) -> None:
    """The refusal names it, and the store without its password."""
    with server.database() as url:
        store = await Store.open(url.replace("//postgres@", "//postgres:secret@"), holder="me", clock=clock)
        with pytest.raises(StoreFailure, match=r"postgres:\*\*\*@.*use pg_dump"):
            await store.backup(tmp_path / "copy.db")
        await store.checkpoint()
        await store.close()
    assert not list(tmp_path.iterdir())
