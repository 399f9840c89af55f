"""A cold start cut into its phases, from what was recorded of it: the service's events, and the engine's own words.

Words are read as the service reads them, by the engine's adapter. Nothing is measured here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, pairwise

_LOADING = "loading weights"
_SERVING = ("starting the HTTP server", "ready")


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds. `ready` ends when the service knows; `answer` is the whole of a first call, from outside."""

    create: float
    up: float
    weights: float
    compile: float
    ready: float
    answer: float

    @property
    def whole(self) -> float:
        """From the decision until the service knows that it is ready."""
        return self.create + self.up + self.weights + self.compile + self.ready


@dataclass(frozen=True, slots=True)
class Recorded:
    """One start, in Unix seconds: decided, its main process there, what it logged when, known to be ready."""

    decided: float
    running: float
    lines: Sequence[tuple[float, str]]
    ready: float
    answer_seconds: float


def phases(recorded: Recorded, cold_phase: Callable[[Sequence[str]], str]) -> Phases:
    """An engine that does not tell of a phase has none of it: its time is the next phase's."""
    words = [(at, cold_phase([line])) for at, line in recorded.lines]
    served = _first(words, _SERVING, recorded.ready)
    loading = min(_first(words, (_LOADING,), served), served)
    weights = [at for at, text in words if at <= served and text.startswith(_LOADING)]
    loaded = next((at for at, text in words if weights and weights[-1] < at <= served and _told(text)), served)
    # A line is stamped a moment after it was written, so marks that should be in order may touch.
    order = accumulate((recorded.decided, recorded.running, loading, loaded, served), max)
    marks = (*(min(mark, recorded.ready) for mark in order), recorded.ready)
    return Phases(*(later - earlier for earlier, later in pairwise(marks)), recorded.answer_seconds)


def middle(starts: Iterable[Phases], median: Callable[[list[float]], float]) -> Phases:
    """Each phase's own median."""
    found = list(starts)
    return Phases(*(median([getattr(start, field.name) for start in found]) for field in fields(Phases)))


def _first(words: Sequence[tuple[float, str]], beginnings: tuple[str, ...], otherwise: float) -> float:
    return next((at for at, text in words if text.startswith(beginnings)), otherwise)


def _told(text: str) -> bool:
    """Whether the line tells of a phase after the weights; what every line means that tells nothing does not count."""
    return not text.startswith((_LOADING, "starting the engine"))
