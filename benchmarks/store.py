"""What a durable commit costs: group commit against a commit per row and the bare disk.

All in one run, round by round, so that a busy machine slows every row alike: read the
ratios. Usage: python benchmarks/store.py [FOLDER] [--seconds 1] [--rounds 3]
"""

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

from controlplane.core.model import InferenceType, Outcome
from controlplane.store import history
from controlplane.store.database import Database, opened
from controlplane.store.records import AttemptRecord, JournalLimits, RequestAccepted, RequestFinished
from controlplane.store.store import Store
from controlplane.store.writer import Writer

PAGE = b"\0" * 4096
JOURNAL_ROWS = 500


def calls() -> Iterator[RequestAccepted]:
    """Requests with ids that grow, as the API makes them."""
    for n in itertools.count():
        yield RequestAccepted(
            f"req-{n:024}", "/v1/chat/completions", InferenceType.TEXT2TEXT, "llm", 50, time.time(), "bench"
        )


def synced_pages(folder: Path, seconds: float) -> float:
    """Pages per second that one thread gets onto the disk with fdatasync alone."""
    descriptor = os.open(folder / "page", os.O_RDWR | os.O_CREAT)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        os.pwrite(descriptor, PAGE, count % 1000 * len(PAGE))
        os.fdatasync(descriptor)
        count += 1
    os.close(descriptor)
    return count / (time.perf_counter() - start)


def single_commits(database: Database, source: Iterator[RequestAccepted], seconds: float) -> float:
    """Rows per second with a transaction for each, from one thread, with nothing in the way."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        with database.writing.begin() as connection:
            history.write(connection, [next(source)])
        count += 1
    return count / (time.perf_counter() - start)


async def group_commits(writer: Writer, source: Iterator[RequestAccepted], tasks: int, seconds: float) -> float:
    """Rows per second that so many tasks get acknowledged, each waiting for its own."""
    start = time.perf_counter()

    async def client() -> int:
        count = 0
        while time.perf_counter() - start < seconds:
            await writer.commit(partial(history.write, rows=[next(source)]))
            count += 1
        return count

    counts = await asyncio.gather(*(client() for _ in range(tasks)))
    return sum(counts) / (time.perf_counter() - start)


async def commit_rates(folder: Path, seconds: float, rounds: int) -> dict[str, float]:
    """The median rate of each way to commit, measured in turns on one database."""
    database = await opened(folder / "commits.db", "benchmark", time.time(), 0.0)
    writer, source = Writer(database.writing), calls()

    async def alone(measure: Callable[[], float]) -> float:
        return await writer.exclusively(measure)

    ways: dict[str, Callable[[], Awaitable[float]]] = {
        "fdatasync loop": partial(alone, partial(synced_pages, folder, seconds)),
        "commit per row": partial(alone, partial(single_commits, database, source, seconds)),
        "group commit, 1 task": partial(group_commits, writer, source, 1, seconds),
        "group commit, 64 tasks": partial(group_commits, writer, source, 64, seconds),
    }
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, measure in ways.items():
            seen[name].append(await measure())
    await writer.close()
    database.close()
    return {name: statistics.median(rates) for name, rates in seen.items()}


async def journal_costs(folder: Path, rounds: int) -> tuple[float, float]:
    """Microseconds per journalled request: of the event loop's time, and of the whole process's CPU."""
    store = await Store.open(
        folder / "journal.db", holder="benchmark", clock=time.time, limits=JournalLimits(flush_seconds=3600)
    )
    appending, working, source = [], [], calls()
    for _ in range(rounds * 10):
        rows = [(row, _ended(row)) for row in itertools.islice(source, JOURNAL_ROWS // 2)]
        start, cpu = time.perf_counter(), time.process_time()
        for row, end in rows:
            store.journal_accepted(row)
            store.journal_finished(end)
        appending.append((time.perf_counter() - start) / len(rows))
        await store.flush()
        working.append((time.process_time() - cpu) / len(rows))
    await store.close()
    return statistics.median(appending) * 1e6, statistics.median(working) * 1e6


def _ended(row: RequestAccepted) -> RequestFinished:
    now = time.time()
    attempt = AttemptRecord(row.request_id, 1, "llm-0", 1, now, now, Outcome.SUCCEEDED)
    return RequestFinished(row, Outcome.SUCCEEDED, now, now, (attempt,), 200, prompt_tokens=9, completion_tokens=99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="on the disk to measure")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="store-benchmark-") as name:
        rates = asyncio.run(commit_rates(Path(name), options.seconds, options.rounds))
        appending, working = asyncio.run(journal_costs(Path(name), options.rounds))
    disk, single = rates["fdatasync loop"], rates["commit per row"]
    print(f"{'durable rows (synchronous=FULL)':32} {'per second':>10} {'x fdatasync':>12} {'x per row':>10}")
    for way, rate in rates.items():
        print(f"{way:32} {rate:10.0f} {rate / disk:12.2f} {rate / single:10.2f}")
    print(f"journalled request: {appending:.1f} us of the event loop (2 appends), {working:.1f} us of CPU in all")


if __name__ == "__main__":
    main()
