"""Answers kept for callers who come back for them: under the request's id, for some time, up to some memory."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from engines.diffusers.wire import RequestState


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended: the answer as sent, and its last state."""

    status: int
    content: bytes
    state: RequestState
    headers: dict[str, str] = field(default_factory=dict)


class KeptResults:
    """Forgets the oldest first. Belongs to the event loop."""

    def __init__(self, seconds: float, limit_mib: int, clock: Callable[[], float] = monotonic) -> None:
        self.seconds = seconds
        self._limit_bytes = limit_mib * 2**20
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, Outcome]] = OrderedDict()
        self._bytes = 0

    def keep(self, request_id: str, outcome: Outcome) -> None:
        """In place of what was kept under this id; an answer larger than the whole memory is not kept."""
        self.drop(request_id)
        if len(outcome.content) <= self._limit_bytes and self.seconds > 0:
            self._kept[request_id] = (self._clock() + self.seconds, outcome)
            self._bytes += len(outcome.content)
        self.expire()

    def get(self, request_id: str) -> Outcome | None:
        self.expire()
        kept = self._kept.get(request_id)
        return kept[1] if kept else None

    def drop(self, request_id: str) -> Outcome | None:
        kept = self._kept.pop(request_id, None)
        if kept is None:
            return None
        self._bytes -= len(kept[1].content)
        return kept[1]

    def expire(self) -> None:
        """Forget what is too old or too much."""
        now = self._clock()
        while self._kept:
            request_id, (until, _) = next(iter(self._kept.items()))
            if until > now and self._bytes <= self._limit_bytes:
                return
            self.drop(request_id)

    @property
    def mib(self) -> float:
        return self._bytes / 2**20
