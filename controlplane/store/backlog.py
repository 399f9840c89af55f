"""Decides what of the waiting journal must be written, and what may be forgotten.

Pure. Rows of one request make earlier ones needless; when too many wait, the
oldest that tell of something ended go first, never a request still in flight.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.store.records import AttemptRecord, Event, RequestAccepted, RequestFinished, RequestStarted

RequestRow = RequestAccepted | RequestStarted | RequestFinished
JournalRow = RequestRow | Event


@dataclass(frozen=True, slots=True)
class Backlog:
    """What to write: the last row of each request, the last state of each attempt, all events."""

    requests: dict[str, RequestRow]
    attempts: dict[tuple[str, int], AttemptRecord]
    events: list[Event]


def coalesce(rows: Sequence[JournalRow]) -> Backlog:
    """Reduce `rows`, oldest first, to the states they arrive at."""
    backlog = Backlog({}, {}, [])
    for row in rows:
        if isinstance(row, Event):
            backlog.events.append(row)
            continue
        backlog.requests[_request_id(row)] = row
        for attempt in _attempts(row):
            backlog.attempts[attempt.request_id, attempt.n] = attempt
    return backlog


def shed(rows: Sequence[JournalRow], target: int) -> tuple[list[JournalRow], int]:
    """Bring `rows` down to `target`: needless rows first, then the oldest ended ones.

    Returns what is left and how many told of something that is now lost. More than
    `target` are left only if so many requests are in flight; admission bounds those.
    """
    ended = {row.accepted.request_id for row in rows if isinstance(row, RequestFinished)}
    needed = [row for row in rows if isinstance(row, _ENDED) or _request_id(row) not in ended]
    excess = len(needed) - target
    kept: list[JournalRow] = []
    for row in needed:
        if excess > 0 and isinstance(row, _ENDED):
            excess -= 1
        else:
            kept.append(row)
    return kept, len(needed) - len(kept)


_ENDED = (Event, RequestFinished)


def _request_id(row: RequestRow) -> str:
    return row.request_id if isinstance(row, RequestAccepted) else row.accepted.request_id


def _attempts(row: RequestRow) -> tuple[AttemptRecord, ...]:
    if isinstance(row, RequestFinished):
        return row.attempts
    return (row.attempt,) if isinstance(row, RequestStarted) else ()
