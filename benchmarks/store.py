"""What a durable commit costs, of a row and of a whole job: group commit against a commit each and the bare disk.

All in one run, round by round, so that a busy machine slows every row alike: read the
ratios. Usage: python benchmarks/store.py [FOLDER] [--seconds 1] [--rounds 3] [--url postgresql://...]
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
from typing import NamedTuple

from sqlalchemy import Connection, Engine

from controlplane.core.model import InferenceType, Outcome
from controlplane.store import history, jobs
from controlplane.store.database import Place
from controlplane.store.records import (
    AttemptRecord,
    CallbackDraft,
    JobDraft,
    JournalLimits,
    Mode,
    RequestAccepted,
    RequestFinished,
)
from controlplane.store.store import Store

PAGE = b"\0" * 4096
PAYLOAD = b'{"path":"/api/v1/text-to-text","body":"' + b"x" * 1160 + b'"}'
JOURNAL_ROWS = 500


def calls(kind: str = "req") -> Iterator[RequestAccepted]:
    """Requests with ids that grow, as the API makes them."""
    for n in itertools.count():
        yield RequestAccepted(
            f"{kind}-{n:024}", "/v1/chat/completions", InferenceType.TEXT2TEXT, "llm", 50, time.time(), "bench"
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


def drafts(source: Iterator[RequestAccepted]) -> Iterator[JobDraft]:
    """Jobs with a body of 1.2 kB, a tag and a callback, as the API makes them."""
    callback = CallbackDraft("https://app.example/hook")
    for row in source:
        yield JobDraft(row._replace(mode=Mode.ASYNC), PAYLOAD, callback, ("bench",))


def single_commits(writing: Engine, write: Callable[[Connection], object], seconds: float) -> float:
    """Per second with a transaction for each, from one thread, with nothing in the way."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        with writing.begin() as connection:
            write(connection)
        count += 1
    return count / (time.perf_counter() - start)


async def group_commits(commit: Callable[[], Awaitable[object]], clients: int, seconds: float) -> float:
    """Per second that so many clients get acknowledged, each waiting for its own."""
    start = time.perf_counter()

    async def client() -> int:
        count = 0
        while time.perf_counter() - start < seconds:
            await commit()
            count += 1
        return count

    counts = await asyncio.gather(*(client() for _ in range(clients)))
    return sum(counts) / (time.perf_counter() - start)


class Rate(NamedTuple):
    """How many a second, and the microseconds of this process's CPU that each took."""

    per_second: float
    cpu_us: float


async def commit_rates(folder: Path, place: Place, seconds: float, rounds: int) -> dict[str, Rate]:
    """The median rate of each way to commit, measured in turns on one database."""
    store, source = await Store.open(place, holder="benchmark", clock=time.time), calls()
    writer, writing, jobs_source = store._writer, store._database.writing, drafts(calls("job"))

    async def alone(measure: Callable[[], float]) -> float:
        return await writer.exclusively(measure)

    def a_row() -> Awaitable[object]:
        return writer.commit(partial(history.write, rows=[next(source)]))

    def a_job() -> Awaitable[object]:
        return store.accept_job(next(jobs_source))

    def write_row(connection: Connection) -> None:
        history.write(connection, [next(source)])

    def write_job(connection: Connection) -> None:
        jobs.accept(connection, [next(jobs_source)])

    ways: dict[str, Callable[[], Awaitable[float]]] = {
        "fdatasync loop": partial(alone, partial(synced_pages, folder, seconds)),
        "commit per row": partial(alone, partial(single_commits, writing, write_row, seconds)),
        "group commit, 1 task": partial(group_commits, a_row, 1, seconds),
        "group commit, 64 tasks": partial(group_commits, a_row, 64, seconds),
        "commit per job": partial(alone, partial(single_commits, writing, write_job, seconds)),
        "jobs accepted, 1 client": partial(group_commits, a_job, 1, seconds),
        "jobs accepted, 64 clients": partial(group_commits, a_job, 64, seconds),
        "jobs accepted, 256 clients": partial(group_commits, a_job, 256, seconds),
    }
    seen: dict[str, list[Rate]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, measure in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            rate = await measure()
            done = rate * (time.perf_counter() - start)
            seen[name].append(Rate(rate, (time.process_time() - cpu) / done * 1e6))
    await store.close()
    return {name: Rate(*map(statistics.median, zip(*rates, strict=True))) for name, rates in seen.items()}


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
    parser.add_argument("--url", help="of an empty PostgreSQL database, instead of a SQLite file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="store-benchmark-") as name:
        place = options.url or Path(name) / "commits.db"
        rates = asyncio.run(commit_rates(Path(name), place, options.seconds, options.rounds))
        appending, working = asyncio.run(journal_costs(Path(name), options.rounds))
    print(f"{'durable commits':32} {'per second':>10} {'x fdatasync':>12} {'x commit each':>14} {'us of CPU':>10}")
    disk = rates["fdatasync loop"].per_second
    for way, (rate, cpu_us) in rates.items():
        single = rates["commit per job" if "job" in way else "commit per row"].per_second
        print(f"{way:32} {rate:10.0f} {rate / disk:12.2f} {rate / single:14.2f} {cpu_us:10.1f}")
    print(f"journalled request: {appending:.1f} us of the event loop (2 appends), {working:.1f} us of CPU in all")


if __name__ == "__main__":
    main()
