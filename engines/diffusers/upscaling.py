"""The learned upscaler's own thread: one picture at a time, and none while its weights are asleep."""

from collections.abc import Callable
from typing import Protocol

from PIL.Image import Image

from engines.diffusers.refusals import Refused, asleep
from engines.diffusers.threads import PictureThreads

Size = tuple[int, int]


class Upscaler(Protocol):
    """What upscale.py loads; the tests have one of their own."""

    @property
    def name(self) -> str: ...

    def upscale(self, image: Image, size: Size, check_wanted: Callable[[], None]) -> Image:
        """A new picture of that size. Raises MemoryError, and whatever `check_wanted` raises."""
        ...

    def sleep(self) -> None: ...

    def wake_up(self) -> None: ...


class Upscaling:
    """Belongs to the event loop."""

    def __init__(self, upscaler: Upscaler) -> None:
        self.name = upscaler.name
        self._upscaler = upscaler
        self._thread = PictureThreads(1, "upscaler")
        self.asleep = False

    async def upscaled(self, image: Image, size: Size, check_wanted: Callable[[], None]) -> Image:
        """Waits for its turn. Raises `Refused`, out of memory included."""
        if self.asleep:
            raise asleep()
        try:
            return await self._thread.run(self._upscaler.upscale, image, size, check_wanted)
        except MemoryError as exc:
            raise Refused(507, str(exc) or "the picture does not fit", "server_error", "out_of_memory") from exc

    async def sleep(self) -> None:
        self.asleep = True
        await self._thread.run(self._upscaler.sleep)

    async def wake_up(self) -> None:
        await self._thread.run(self._upscaler.wake_up)
        self.asleep = False

    def close(self) -> None:
        self._thread.close()
