"""How long a control plane needs to be ready with so many jobs queued: the first heads of each priority, no body.

Fills a store, forgets the disk's cache, and makes the reads that recovery makes before it listens; beside it, in
the same run, the same number of heads read with their bodies. Usage:
python benchmarks/store_recovery.py [FOLDER] [--queued 1000000] [--rounds 3]
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

from sqlalchemy import select

from benchmarks.store import calls, drafts
from controlplane.loop.jobs.recovery import FIRST_HEADS, PAGE_HEADS
from controlplane.store import jobs
from controlplane.store.database import opened
from controlplane.store.store import Store
from controlplane.store.tables import payloads, requests

_CHUNK = 5_000
_PRIORITIES = (20, 50, 80)


async def fill(path: Path, count: int) -> float:
    """So many jobs of three priorities; seconds it took."""
    start, source = time.perf_counter(), drafts(calls("job"))
    database = await opened(path, "benchmark", time.time(), 0.0)
    for begin in range(0, count, _CHUNK):
        some = [
            draft.__class__(draft.accepted._replace(priority=_PRIORITIES[n % 3]), draft.payload)
            for n, draft in enumerate(islice(source, min(_CHUNK, count - begin)))
        ]
        with database.writing.begin() as connection:
            jobs.accept(connection, some)
    database.checkpoint()
    database.close()
    return time.perf_counter() - start


def forget(folder: Path) -> None:
    """Drop what the kernel keeps of the files, as after a reboot."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


async def ready(path: Path) -> dict[str, float]:
    """Seconds from nothing to: the store open, who ran, how many wait, the first of every class; then all heads."""
    marks, start = {}, time.perf_counter()
    store = await Store.open(path, holder="benchmark", clock=time.time)
    marks["store open"] = time.perf_counter() - start
    await store.pictures_needed()
    await store.jobs_in_flight()
    priorities = await store.waiting_job_priorities()
    marks["who ran, which priorities wait"] = time.perf_counter() - start
    firsts = {priority: await store.waiting_jobs(priority, None, FIRST_HEADS) for priority in priorities}
    marks["ready: the first of each priority"] = time.perf_counter() - start
    for priority, heads in firsts.items():
        while heads:
            heads = await store.waiting_jobs(priority, heads[-1], PAGE_HEADS)
    marks["all heads, read behind"] = time.perf_counter() - start
    await store.close()
    return marks


async def with_bodies(path: Path, count: int) -> float:
    """Seconds to read as many jobs as recovery reads heads at first, with their rows and bodies."""
    start = time.perf_counter()
    database = await opened(path, "benchmark", time.time(), 0.0)
    whole = select(requests, payloads.c.body).join(payloads, payloads.c.request_id == requests.c.request_id)
    with database.reading.begin() as connection:
        rows = connection.execute(whole.where(requests.c.finished_at.is_(None)).limit(count)).all()
    assert len(rows) == count
    database.close()
    return time.perf_counter() - start


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="on the disk to measure")
    parser.add_argument("--queued", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="store-benchmark-") as name:
        path = Path(name) / "queue.db"
        print(f"{options.queued} jobs queued in {await fill(path, options.queued):.0f} s, ", end="")
        print(f"{sum(each.stat().st_size for each in path.parent.iterdir()) / 1e9:.1f} GB")
        seen: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            forget(path.parent)
            for mark, seconds in (await ready(path)).items():
                seen.setdefault(mark, []).append(seconds)
            forget(path.parent)
            seen.setdefault("(the same number with rows and bodies)", []).append(
                await with_bodies(path, min(options.queued, FIRST_HEADS * len(_PRIORITIES)))
            )
    for mark, times in seen.items():
        print(f"{mark:40} {statistics.median(times):8.3f} s")


if __name__ == "__main__":
    asyncio.run(main())
