"""Fetches a picture from an address that a caller names; where calls may go is judged in `outbound`.

Each redirect starts over. What the bytes are is not judged here.
"""

import asyncio
import ssl
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import httpx

from controlplane.errors import RequestRejected
from controlplane.media.outbound import Outbound, OutboundRules, Resolve, Sending, Unreachable, resolve_by_system
from controlplane.media.refusals import refused

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_GET: Final = Sending("GET", {"accept": "image/*"})
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FetchRules:
    """What may be fetched. `timeout` covers everything: names, redirects and the body."""

    enabled: bool
    allow_private: bool
    max_mib: float
    timeout: timedelta
    max_redirects: int = 3


class ImageFetcher:
    """Holds no connection between two fetches."""

    def __init__(
        self, rules: FetchRules, resolve: Resolve = resolve_by_system, tls: ssl.SSLContext | None = None
    ) -> None:
        self._rules = rules
        self._outbound = OutboundRules(rules.allow_private, "media.allow_private_addresses")
        self._resolve = resolve
        self._tls = tls or ssl.create_default_context()

    async def fetch(self, url: str, param: str = "image_url") -> bytes:
        """The body that stands there. Raises RequestRejected that names `param`."""
        if not self._rules.enabled:
            raise refused(param, "pictures are not fetched from addresses here; send the picture as a data URL")
        seconds = self._rules.timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds), Outbound(self._outbound, self._resolve, self._tls) as outbound:
                return await self._followed(outbound, url)
        except TimeoutError as exc:
            raise self._refused(param, f"it took longer than {seconds:g} s") from exc
        except Unreachable as exc:
            raise self._refused(param, str(exc)) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise self._refused(param, f"{type(exc).__name__} {exc}".strip()) from exc

    @staticmethod
    def _refused(param: str, reason: str) -> RequestRejected:
        return refused(param, f"the picture cannot be fetched: {reason}", "image_not_fetched")

    async def _followed(self, outbound: Outbound, address: str) -> bytes:
        url = httpx.URL(address)
        for _ in range(self._rules.max_redirects + 1):
            found = await self._got(outbound, url)
            if isinstance(found, bytes):
                return found
            url = url.join(found)
        raise Unreachable(f"it redirects more than {self._rules.max_redirects} times")

    async def _got(self, outbound: Outbound, url: httpx.URL) -> bytes | httpx.URL:
        """The body, or where it has moved to."""
        answer = await outbound.send(url, _GET)
        try:
            if answer.status_code in _REDIRECTS and "location" in answer.headers:
                return httpx.URL(answer.headers["location"])
            if answer.status_code != httpx.codes.OK:
                raise Unreachable(f"the server answered {answer.status_code}")
            return await self._body(answer)
        finally:
            await answer.aclose()

    async def _body(self, answer: httpx.Response) -> bytes:
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise Unreachable("the server sent it compressed, unasked")
        most = int(self._rules.max_mib * _MIB)
        content = bytearray()
        async for piece in answer.aiter_raw():
            content += piece
            if len(content) > most:
                raise Unreachable(f"it has more than {self._rules.max_mib:g} MiB")
        return bytes(content)
