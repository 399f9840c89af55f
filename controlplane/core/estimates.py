"""How long things take, learned from what they took: loads, answers, and so the ETA of who waits.

Pure arithmetic on figures in seconds. Figures lean to recent ones (EWMA).
"""

import math
from dataclasses import dataclass

_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Estimate:
    """A learned duration; `samples` 0 means it is the configured guess."""

    seconds: float
    samples: int = 0

    def learn(self, seconds: float) -> "Estimate":
        """The first sample replaces the guess; later ones move it by a fifth."""
        if self.samples == 0:
            return Estimate(seconds, 1)
        return Estimate(self.seconds + _WEIGHT * (seconds - self.seconds), self.samples + 1)


@dataclass(frozen=True, slots=True)
class Pace:
    """What a model's line moves at: slots, seconds per answer, seconds until it can serve at all."""

    slots: int
    answer_seconds: float
    ready_in_seconds: float = 0.0


def eta_seconds(position: int, pace: Pace) -> float:
    """Expected seconds until the request at `position` (first is 1) gets a slot.

    While the model is loading, the first `slots` requests start together; then
    the line moves by `slots` requests per answer time. In a running model a slot
    comes free every `answer_seconds / slots`.
    """
    if pace.ready_in_seconds > 0:
        return pace.ready_in_seconds + ((position - 1) // pace.slots) * pace.answer_seconds
    return math.ceil(position) * pace.answer_seconds / pace.slots


def remaining_seconds(elapsed: float, expected: float) -> float:
    """What is left of a load; one that takes longer than expected is always about to be done."""
    return max(expected - elapsed, 0.05 * expected)
