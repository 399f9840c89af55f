"""Batching: what an engine may compute together, how much it is fed, and how long it waits for more.

An engine gets as much as it can use at once and no more, so that the order of
those who wait stays ours. A row is one unit of a batch: a text request, or one
image of a request for several. Whose turn it is decides the queue's rank.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from controlplane.core.model import RequestHead

Rank = Callable[[RequestHead], float]

# How far behind the first in line a whole-call batch is gathered from, in batches: bounds the cost of one look.
_LOOK_BATCHES = 4


class Mode(StrEnum):
    """How an engine takes requests in.

    CONTINUOUS: any request joins those that run, as long as there are slots.
    STEPS: a row joins at the next step, and a lower one is put aside for a higher.
    CALLS: a batch is one call; who comes later waits for the next one.
    """

    CONTINUOUS = "continuous"
    STEPS = "steps"
    CALLS = "calls"


@dataclass(frozen=True, slots=True)
class RowMemory:
    """What is left for rows on the device, and what each of them takes, in MiB."""

    spare_mib: int
    row_mib: int


@dataclass(frozen=True, slots=True)
class BatchRules:
    """One model's rules. `batch_rows` are computed together; `depth_rows` are at the engine, running or next.

    `linger_seconds` is the longest an idle engine waits for more rows; zero
    where the engine joins them in later.
    """

    mode: Mode
    batch_rows: int
    depth_rows: int
    linger_seconds: float = 0.0

    @property
    def displaces(self) -> bool:
        return self.mode is Mode.STEPS

    @property
    def gathers(self) -> bool:
        """Whether requests are brought together before they are sent."""
        return self.mode is Mode.CALLS and self.batch_rows > 1

    @property
    def counts_rows(self) -> bool:
        """Whether it matters what is in a request: where not, every request is one row like any other."""
        return self.mode is not Mode.CONTINUOUS

    @property
    def at_once_rows(self) -> int:
        """Below so many rows at the engine a request of one row goes there without looking at anything else."""
        if self.gathers:
            return 0
        return min(self.batch_rows, self.depth_rows) if self.displaces else self.depth_rows

    @property
    def looks_at(self) -> int:
        """How many of the first in line a decision depends on."""
        return _LOOK_BATCHES * self.batch_rows if self.gathers else 1

    def rows(self, wanted: int) -> int:
        """The rows that a request for so many can use at the same time."""
        return min(max(1, wanted), self.batch_rows)


@dataclass(frozen=True, slots=True)
class Feed:
    """Who goes to the engine now, in order. Nobody yet: `until` is when that changes by itself, if it does."""

    heads: tuple[RequestHead, ...] = ()
    until: float | None = None


_NOBODY = Feed()


class Load(Protocol):
    """What is at one engine: how many rows, and, where it displaces, of which requests."""

    @property
    def rows(self) -> int: ...

    @property
    def held(self) -> Collection[RequestHead]: ...


def rules_for(
    mode: Mode, most_rows: int, depth_rows: int, linger_seconds: float = 0.0, memory: RowMemory | None = None
) -> BatchRules:
    """`most_rows` is cut down to what fits in memory, where that is known; one row is always tried."""
    rows = most_rows if memory is None else min(most_rows, memory.spare_mib // memory.row_mib)
    if mode is not Mode.CALLS or rows <= 1:
        linger_seconds = 0.0
    return BatchRules(mode, max(1, rows), depth_rows, linger_seconds)


def can_batch(first: RequestHead, other: RequestHead) -> bool:
    """Whether one call can compute both."""
    return first.model_id == other.model_id and first.key == other.key


def prepare_batch(rules: BatchRules, front: Sequence[RequestHead]) -> tuple[RequestHead, ...]:
    """The call that the first in line leads: it and those like it, in order, until the next would not fit."""
    batch: list[RequestHead] = []
    rows = 0
    for head in front:
        if not can_batch(front[0], head):
            continue
        if batch and rows + head.rows > rules.batch_rows:
            break
        batch.append(head)
        rows += head.rows
    return tuple(batch)


def feed(rules: BatchRules, load: Load, front: Sequence[RequestHead], rank: Rank, now: float) -> Feed:
    """Decide for one engine. `front` is the beginning of its model's line, `rules.looks_at` long."""
    if not front:
        return _NOBODY
    if rules.gathers:
        return _gathered(rules, load, front, now)
    return Feed((front[0],)) if _takes(rules, load, front[0], rank) else _NOBODY


def _takes(rules: BatchRules, load: Load, head: RequestHead, rank: Rank) -> bool:
    if not rules.displaces:
        return load.rows < rules.depth_rows
    if load.rows + head.rows <= rules.at_once_rows:
        return True
    mine = rank(head)
    if any(other.priority < head.priority and rank(other) <= mine for other in load.held):
        # The engine goes by priority alone. Who has aged past the newcomer is not put aside for it, or it might be
        # for ever.
        return False
    return load.rows < rules.depth_rows or _runs_at_once(rules, load, head)


def _gathered(rules: BatchRules, load: Load, front: Sequence[RequestHead], now: float) -> Feed:
    """A whole call at a time. Whoever has waited for `linger_seconds` beside a free engine waits no longer."""
    if load.rows and load.rows + rules.batch_rows > rules.depth_rows:
        return _NOBODY
    batch = prepare_batch(rules, front)
    until = min(head.enqueued_at for head in front) + rules.linger_seconds
    return Feed(batch) if until <= now or _is_full(rules, batch, front) else Feed(until=until)


def _is_full(rules: BatchRules, batch: tuple[RequestHead, ...], front: Sequence[RequestHead]) -> bool:
    alike = sum(can_batch(front[0], head) for head in front)
    return alike > len(batch) or sum(head.rows for head in batch) >= rules.batch_rows


def _runs_at_once(rules: BatchRules, load: Load, head: RequestHead) -> bool:
    """Beyond the depth goes only who would not wait there, because the engine puts lower ones aside for it."""
    if load.rows >= rules.depth_rows + rules.batch_rows:
        return False
    return sum(other.rows for other in load.held if other.priority >= head.priority) < rules.at_once_rows
