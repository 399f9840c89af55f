"""Where it is shown how far running jobs are, and where those wait who want to hear of a change or of the end.

Level-triggered: who is woken looks for itself. In memory only; what must last is in the store.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a try is: steps or images, done and in all; the text so far."""

    done: int = 0
    total: int = 0
    unit: str = ""
    text: str = ""


class Bell:
    """Wakes those who wait for something about one request."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def __contains__(self, request_id: str) -> bool:
        """Whether anybody waits."""
        return request_id in self._waiting

    def ring(self, request_id: str) -> None:
        for event in self._waiting.get(request_id, ()):
            event.set()

    @contextlib.contextmanager
    def heard(self, request_id: str) -> Iterator[asyncio.Event]:
        """Set at every ring from now on; clear it before you look."""
        event = asyncio.Event()
        self._waiting.setdefault(request_id, set()).add(event)
        try:
            yield event
        finally:
            waiting = self._waiting[request_id]
            waiting.discard(event)
            if not waiting:
                del self._waiting[request_id]


class Board:
    """`changes` rings whenever there is news of a request, `ends` when it has ended."""

    def __init__(self) -> None:
        self._progress: dict[str, Callable[[], Progress]] = {}
        self.changes = Bell()
        self.ends = Bell()

    def progress(self, request_id: str) -> Progress | None:
        tell = self._progress.get(request_id)
        return tell() if tell is not None else None

    def show(self, request_id: str, tell: Callable[[], Progress]) -> None:
        """From now on `tell` is asked how far it is, whenever somebody looks."""
        self._progress[request_id] = tell
        self.changes.ring(request_id)

    def clear(self, request_id: str) -> None:
        """Its try is over: there is nothing to show any more."""
        self._progress.pop(request_id, None)
        self.changes.ring(request_id)

    def end(self, request_id: str) -> None:
        self.clear(request_id)
        self.ends.ring(request_id)
