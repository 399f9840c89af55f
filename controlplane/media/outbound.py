"""Calls to addresses that callers name, without becoming the caller's hand inside the network.

Every name is resolved once, judged, and the very address that was judged is connected to; whoever follows a
redirect comes here again. What is sent and what comes back is not looked at.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import httpx

from controlplane.media.addresses import may_be_called

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to addresses. Raises OSError."""

_PORTS: Final = {"http": 80, "https": 443}
_PORTS_END: Final = 65_536


class Unreachable(Exception):
    """Why not, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class OutboundRules:
    """Where calls may go. `setting` names the key that allows private addresses, for the message that refuses one."""

    allow_private: bool
    setting: str


@dataclass(frozen=True, slots=True)
class Sending:
    """What is sent, beside its address."""

    method: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """The addresses the system knows for a name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


class Outbound:
    """Used as a context around one errand: a connection kept longer would outlive the judgement that allowed it.

    How long an errand may take is its caller's to say, around all of it.
    """

    def __init__(self, rules: OutboundRules, resolve: Resolve, tls: ssl.SSLContext) -> None:
        self._rules = rules
        self._resolve = resolve
        # trust_env: a proxy from the environment would resolve the name once more, by its own lights.
        self._client = httpx.AsyncClient(
            verify=tls,
            trust_env=False,
            follow_redirects=False,
            timeout=None,  # noqa: S113 - the caller's time covers all of the errand
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def send(self, url: httpx.URL, sending: Sending) -> httpx.Response:
        """The answer's head, from the first address that can be reached; its body is yet to be read.

        Raises Unreachable and httpx.HTTPError.
        """
        addresses = await self._addresses(url)
        for address in addresses[:-1]:
            try:
                return await self._client.send(self._request(url, address, sending), stream=True)
            except httpx.ConnectError:
                continue
        return await self._client.send(self._request(url, addresses[-1], sending), stream=True)

    async def _addresses(self, url: httpx.URL) -> Sequence[str]:
        """Those to call. Where only some of a name's addresses may be called, the name is up to something."""
        port = checked_port(url)
        try:
            found = await self._resolve(url.raw_host.decode("ascii").strip("[]"), port)
        except (OSError, UnicodeError) as exc:
            raise Unreachable(f"the name {url.host} cannot be resolved") from exc
        if not found or not all(may_be_called(each, private=self._rules.allow_private) for each in found):
            raise Unreachable(f"{url.host} is not a public address ({self._rules.setting})")
        return found

    def _request(self, url: httpx.URL, address: str, sending: Sending) -> httpx.Request:
        headers = {
            "host": url.netloc.decode("ascii"),
            # A compressed answer could unfold without end.
            "accept-encoding": "identity",
            "user-agent": "inference-manager",
            **sending.headers,
        }
        return self._client.build_request(
            sending.method,
            url.copy_with(host=address, fragment=None),
            content=sending.content,
            headers=headers,
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )


def checked_port(url: httpx.URL) -> int:
    """The port to call, of an address that is fit to be called. Raises Unreachable."""
    if url.scheme not in _PORTS or not url.host:
        raise Unreachable("only http:// and https:// addresses are called")
    if url.userinfo:
        raise Unreachable("the address must not hold a user name or password")
    port = _PORTS[url.scheme] if url.port is None else url.port
    if not 0 < port < _PORTS_END:
        raise Unreachable(f"there is no port {port}")
    return port
