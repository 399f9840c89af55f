"""Makes pictures plain before an engine sees them: upright, 8 bits, RGB or RGBA, in a format that every engine reads.

What counts as a picture is decided in engines.pictures; here it is done beside the event loop, a few at a time.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from controlplane.media.refusals import refused
from engines.pictures.encoding import Encoding, OutputFormat, encode
from engines.pictures.intake import Limits, PictureRefused, examine
from engines.pictures.refusals import ParameterRefused

_PHOTOGRAPH_QUALITY: Final = 95


class PlainImage(NamedTuple):
    """A picture every engine can read: the file and its type (PNG, JPEG or WebP)."""

    content: bytes
    content_type: str


def plain_image(content: bytes, limits: Limits) -> PlainImage:
    """The same bytes where they are plain already, else the picture written anew. Raises PictureRefused.

    Decodes the whole picture, which takes time and memory: never call it on the event loop.
    """
    picture = examine(content, limits)
    if picture.plain:
        return PlainImage(content, picture.content_type)
    # A photograph as PNG would be many times its size; whatever else was sent stays exact.
    kept: OutputFormat = "jpeg" if picture.content_type == "image/jpeg" else "png"
    encoding = Encoding(kept, _PHOTOGRAPH_QUALITY)
    try:
        return PlainImage(encode(picture.image, encoding), encoding.content_type)
    except ParameterRefused as exc:
        raise PictureRefused(exc.message) from exc


class Intake:
    """Decodes pictures in threads of its own; `at_once` bounds how many stand decoded in memory together."""

    def __init__(self, limits: Limits, at_once: int = 2) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="intake")

    @property
    def limits(self) -> Limits:
        return self._limits

    async def plain_image(self, content: bytes, param: str = "image") -> PlainImage:
        """Raises RequestRejected that names `param`."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, plain_image, content, self._limits)
        except PictureRefused as exc:
            raise refused(param, str(exc)) from exc
