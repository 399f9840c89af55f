"""A call as it came: what is read of it before anybody looks into its body."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from controlplane.errors import RequestRejected
from controlplane.loop.prepared import Prepared


def _nowhere() -> str:
    return ""


class Arrival(NamedTuple):
    """`base` gives our address as the caller knows it.

    `begun`: it is a job that was accepted before; `upload` is its picture, and its body is JSON always.
    """

    path: str
    headers: Mapping[bytes, bytes]
    body: bytes
    client: str | None
    base: Callable[[], str] = _nowhere
    begun: bool = False
    upload: bytes | None = None


class Reader(Protocol):
    """Makes of an arrival what the door is asked, for some paths."""

    async def read(self, arrival: Arrival) -> Prepared:
        """Raises RequestRejected naming what to change."""
        ...

    def refusal(self, path: str, rejection: RequestRejected) -> bytes:
        """The body for who is refused before there is a request."""
        ...
