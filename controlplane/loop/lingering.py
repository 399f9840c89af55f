"""Calls back for what lasts longer than a while; what ends sooner costs a dictionary entry and no timer.

Most calls on the warm path are over before anybody needs to look after them.
"""

import asyncio
from collections.abc import Callable


class Lingering:
    """One timer for everything in it, set for the oldest. Belongs to the event loop that first uses it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[object, tuple[float, Callable[[], None]]] = {}  # oldest first
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, key: object, on_late: Callable[[], None]) -> None:
        """Call `on_late` once if `key` has not left by then."""
        loop = asyncio.get_running_loop()
        self._since[key] = (loop.time(), on_late)
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look)

    def leave(self, key: object) -> None:
        """Nothing will be called for it; also after it was."""
        self._since.pop(key, None)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._since:
            key, (since, on_late) = next(iter(self._since.items()))
            if since + self._seconds > loop.time():
                self._timer = loop.call_at(since + self._seconds, self._look)
                return
            del self._since[key]
            on_late()
