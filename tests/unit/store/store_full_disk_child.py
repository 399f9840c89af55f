"""A store whose disk fills up and empties again; run in a process of its own, for the limit is the process's.

Usage: store_full_disk_child.py STORE. Prints two refusals; exits 0 when every claim held.
"""

import asyncio
import resource
import sys
import time
from pathlib import Path

from store_rows import accepted, create, finished, replica

from controlplane.errors import StoreFailure
from controlplane.store.errors import Unavailable
from controlplane.store.records import JournalLimits, ReplicaChange
from controlplane.store.store import Store

LIMITS = JournalLimits(flush_seconds=0.01, flush_rows=50, max_rows=400, retry_seconds=0.05)


def allow_file_bytes(count: int) -> None:
    """Writes beyond `count` in any file now fail, as they do on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))


async def commit_until_refused(store: Store) -> int:
    """Bump one row until the store says no; the generation that was acknowledged last."""
    generation = 1
    await store.commit_replicas([create(replica(generation=1))])
    while True:
        try:
            await store.commit_replicas([ReplicaChange(replica(generation=generation + 1), generation)])
        except StoreFailure as refusal:
            print(refusal)
            return generation
        generation += 1


async def main() -> None:
    path = Path(sys.argv[1])
    store = await Store.open(path, holder="the child", clock=time.time, limits=LIMITS)
    allow_file_bytes(path.with_name(path.name + "-wal").stat().st_size + 200_000)
    generation = await commit_until_refused(store)
    assert not store.healthy
    assert store.failure is not None

    # While the disk is away: history is kept up to the limit, reads go on, durable work is refused.
    for n in range(1000):
        store.journal_finished(finished(accepted(f"r-{n:04}")))
    assert [row.generation for row in await store.replicas()] == [generation]
    refusals = await asyncio.gather(store.flush(), store.flush(), return_exceptions=True)
    assert [type(refusal) for refusal in refusals] == [Unavailable, Unavailable]
    print(refusals[0])
    assert store.journal_dropped >= 600, store.journal_dropped

    # The disk is back: the journal recovers with nobody asking, and durable work goes on.
    allow_file_bytes(resource.RLIM_INFINITY)
    async with asyncio.timeout(60):
        # A reader may see the row a moment before the loop learns that its commit came through.
        while await store.request("r-0999") is None or not store.healthy:
            pass
    await store.commit_replicas([ReplicaChange(replica(generation=generation + 1), generation)])
    kept = (await store.requests(limit=2000)).requests
    assert len(kept) + store.journal_dropped == 1000, (len(kept), store.journal_dropped)
    assert [row.request_id for row in kept] == [f"r-{n:04}" for n in reversed(range(1000 - len(kept), 1000))]
    await store.close()


asyncio.run(main())
