"""Where it is shown how far running jobs are, and where those wait who want to hear of a change.

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


class Board:
    """Belongs to the event loop."""

    def __init__(self) -> None:
        self._progress: dict[str, Callable[[], Progress]] = {}
        self._watching: dict[str, set[asyncio.Event]] = {}

    def progress(self, request_id: str) -> Progress | None:
        tell = self._progress.get(request_id)
        return tell() if tell is not None else None

    def show(self, request_id: str, tell: Callable[[], Progress]) -> None:
        """From now on `tell` is asked how far it is, whenever somebody looks."""
        self._progress[request_id] = tell
        self.wake(request_id)

    def clear(self, request_id: str) -> None:
        """There is nothing to show any more."""
        self._progress.pop(request_id, None)
        self.wake(request_id)

    def wake(self, request_id: str) -> None:
        """Something about this request has changed."""
        for event in self._watching.get(request_id, ()):
            event.set()

    def watched(self, request_id: str) -> bool:
        return request_id in self._watching

    @contextlib.contextmanager
    def watch(self, request_id: str) -> Iterator[asyncio.Event]:
        """Set at every change from now on; clear it before you look."""
        event = asyncio.Event()
        self._watching.setdefault(request_id, set()).add(event)
        try:
            yield event
        finally:
            watching = self._watching[request_id]
            watching.discard(event)
            if not watching:
                del self._watching[request_id]
