"""Decides which jobs go through the denoiser together next, and which waiting jobs are started. Pure, no tensors.

The best rank always goes: higher priority first, then who came first. Whoever mixes with it and ranks next fills the
call. So a higher priority displaces at the next call, and among equals the oldest always moves: nobody starves.
"""

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A job's place in the order. `arrival` counts jobs as they came, so no two are alike."""

    priority: int
    arrival: int

    @property
    def rank(self) -> tuple[int, int]:
        """Smaller goes first."""
        return (-self.priority, self.arrival)


@dataclass(frozen=True, slots=True)
class Claim:
    """A started job that waits for its next denoiser call; only claims of the same `key` mix."""

    place: Place
    key: Hashable


def next_call(claims: Collection[Claim], most_rows: int) -> tuple[Claim, ...]:
    """The claims to serve together, best rank first; empty only when there are none."""
    if not claims:
        return ()
    leader = min(claims, key=lambda claim: claim.place.rank)
    alike = sorted((claim for claim in claims if claim.key == leader.key), key=lambda claim: claim.place.rank)
    return tuple(alike[: max(most_rows, 1)])


def to_start(waiting: Iterable[Place], started: Iterable[Place], most_started: int) -> tuple[Place, ...]:
    """The waiting jobs that rank among the first `most_started` of all, best first.

    A started job is never stopped for this: a burst of higher priority may hold more than `most_started` at once, each
    a few megabytes at most.
    """
    queue = sorted(waiting, key=lambda place: place.rank)
    rivals = sorted(place.rank for place in started)
    chosen: list[Place] = []
    for place in queue:
        ahead = sum(rank < place.rank for rank in rivals) + len(chosen)
        if ahead >= most_started:
            break
        chosen.append(place)
    return tuple(chosen)


def displaced(before: Collection[Place], now: Collection[Place], unfinished: Collection[Place]) -> frozenset[Place]:
    """Who was in the last call, is not finished, and is left out of this one for a higher priority."""
    left_out = frozenset(before) & frozenset(unfinished) - frozenset(now)
    highest = max((place.priority for place in now), default=0)
    return frozenset(place for place in left_out if place.priority < highest)
