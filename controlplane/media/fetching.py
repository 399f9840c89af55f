"""Fetches a picture from an address that a caller names, without becoming the caller's hand inside the network.

Every name is resolved once, judged, and the very address that was judged is connected to; each redirect starts over.
What the bytes are is not judged here.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import httpx

from controlplane.errors import RequestRejected
from controlplane.media.addresses import may_be_called
from controlplane.media.refusals import refused

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses. Raises OSError."""

_PORTS: Final = {"http": 80, "https": 443}
_PORTS_END: Final = 65_536
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FetchRules:
    """What may be fetched. `timeout` covers everything: names, redirects and the body."""

    enabled: bool
    allow_private: bool
    max_mib: float
    timeout: timedelta
    max_redirects: int = 3


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """The addresses the system knows for a name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


class _Unfetched(Exception):
    """Why not, as the end of a sentence."""


class ImageFetcher:
    """Holds no connection between two fetches: one would outlive the judgement that allowed it."""

    def __init__(
        self, rules: FetchRules, resolve: Resolve = resolve_by_system, tls: ssl.SSLContext | None = None
    ) -> None:
        self._rules = rules
        self._resolve = resolve
        self._tls = tls or ssl.create_default_context()

    async def fetch(self, url: str, param: str = "image_url") -> bytes:
        """The body that stands there. Raises RequestRejected that names `param`."""
        if not self._rules.enabled:
            raise refused(param, "pictures are not fetched from addresses here; send the picture as a data URL")
        try:
            async with asyncio.timeout(self._rules.timeout.total_seconds()), self._client() as client:
                return await self._followed(client, url)
        except TimeoutError as exc:
            seconds = self._rules.timeout.total_seconds()
            raise self._refused(param, f"it took longer than {seconds:g} s") from exc
        except _Unfetched as exc:
            raise self._refused(param, str(exc)) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise self._refused(param, f"{type(exc).__name__} {exc}".strip()) from exc

    @staticmethod
    def _refused(param: str, reason: str) -> RequestRejected:
        return refused(param, f"the picture cannot be fetched: {reason}", "image_not_fetched")

    def _client(self) -> httpx.AsyncClient:
        # trust_env: a proxy from the environment would resolve the name once more, by its own lights.
        seconds = self._rules.timeout.total_seconds()
        return httpx.AsyncClient(verify=self._tls, trust_env=False, follow_redirects=False, timeout=seconds)

    async def _followed(self, client: httpx.AsyncClient, address: str) -> bytes:
        url = httpx.URL(address)
        for _ in range(self._rules.max_redirects + 1):
            found = await self._got(client, url)
            if isinstance(found, bytes):
                return found
            url = url.join(found)
        raise _Unfetched(f"it redirects more than {self._rules.max_redirects} times")

    async def _got(self, client: httpx.AsyncClient, url: httpx.URL) -> bytes | httpx.URL:
        """The body, or where it has moved to."""
        answer = await self._answer(client, url, await self._addresses(url))
        try:
            if answer.status_code in _REDIRECTS and "location" in answer.headers:
                return httpx.URL(answer.headers["location"])
            if answer.status_code != httpx.codes.OK:
                raise _Unfetched(f"the server answered {answer.status_code}")
            return await self._body(answer)
        finally:
            await answer.aclose()

    async def _answer(self, client: httpx.AsyncClient, url: httpx.URL, addresses: Sequence[str]) -> httpx.Response:
        """From the first address that can be reached."""
        for address in addresses[:-1]:
            try:
                return await client.send(self._request(client, url, address), stream=True)
            except httpx.ConnectError:
                continue
        return await client.send(self._request(client, url, addresses[-1]), stream=True)

    async def _addresses(self, url: httpx.URL) -> Sequence[str]:
        """Those to call. Where only some of a name's addresses may be called, the name is up to something."""
        if url.scheme not in _PORTS or not url.host:
            raise _Unfetched("only http:// and https:// addresses are fetched")
        if url.userinfo:
            raise _Unfetched("the address must not hold a user name or password")
        port = _PORTS[url.scheme] if url.port is None else url.port
        if not 0 < port < _PORTS_END:
            raise _Unfetched(f"there is no port {port}")
        try:
            found = await self._resolve(url.raw_host.decode("ascii").strip("[]"), port)
        except (OSError, UnicodeError) as exc:
            raise _Unfetched(f"the name {url.host} cannot be resolved") from exc
        if not found or not all(may_be_called(each, private=self._rules.allow_private) for each in found):
            raise _Unfetched(f"{url.host} is not a public address (media.allow_private_addresses)")
        return found

    @staticmethod
    def _request(client: httpx.AsyncClient, url: httpx.URL, address: str) -> httpx.Request:
        host = url.raw_host.decode("ascii")
        return client.build_request(
            "GET",
            url.copy_with(host=address, fragment=None),
            headers={
                "host": url.netloc.decode("ascii"),
                "accept": "image/*",
                # A compressed answer could unfold without end.
                "accept-encoding": "identity",
                "user-agent": "inference-manager",
            },
            extensions={"sni_hostname": host},
        )

    async def _body(self, answer: httpx.Response) -> bytes:
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise _Unfetched("the server sent it compressed, unasked")
        most = int(self._rules.max_mib * _MIB)
        content = bytearray()
        async for piece in answer.aiter_raw():
            content += piece
            if len(content) > most:
                raise _Unfetched(f"it has more than {self._rules.max_mib:g} MiB")
        return bytes(content)
