"""Everything about pictures that the HTTP layer is given, as one value."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from controlplane.media.artifacts import Artifacts
from controlplane.media.folder import MediaFolder
from controlplane.media.intake import Intake, PlainImage
from engines.pictures.intake import Limits


class Fetch(Protocol):
    def __call__(self, url: str, param: str = "image_url") -> Awaitable[bytes]:
        """The bytes at an address. Raises RequestRejected that names `param`."""
        ...


@dataclass(frozen=True, slots=True)
class Media:
    """`artifacts`: results. `folder`: where callers may name paths. `fetch`: addresses. `intake`: makes them plain."""

    artifacts: Artifacts
    folder: MediaFolder
    fetch: Fetch
    intake: Intake

    @property
    def limits(self) -> Limits:
        return self.intake.limits

    async def plain_image(self, content: bytes, param: str = "image") -> PlainImage:
        """What an engine is given instead of `content`. Raises RequestRejected that names `param`."""
        return await self.intake.plain_image(content, param)
