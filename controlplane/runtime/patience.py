"""How long a stop waits before it kills."""

import asyncio
from collections.abc import Awaitable


class Patience:
    """How long a stop waits before it kills; a second caller may shorten it."""

    def __init__(self, seconds: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._timeout: asyncio.Timeout | None = None

    def shorten(self, seconds: float) -> None:
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + seconds)
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(self._deadline)

    async def cut_off(self, work: Awaitable[None]) -> None:
        """Await `work`, or cancel it when patience ends."""
        try:
            async with asyncio.timeout_at(self._deadline) as self._timeout:
                await work
        except TimeoutError:
            return
        finally:
            self._timeout = None
