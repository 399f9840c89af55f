"""Who is calling and what they may do: bearer keys by their hash, or the open door of a keyless loopback.

Keys are compared as SHA-256 digests looked up whole, so that timing tells
nothing about a key; neither keys nor digests are logged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import urlsplit

from controlplane.api.errors import forbidden, unauthorized
from controlplane.settings import ApiKey, Scope

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_ALL = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Client:
    """A caller; `name` is None on a keyless loopback."""

    name: str | None
    scopes: frozenset[Scope]


class Keyring:
    """All configured keys. Without any, every program on this machine may do everything, but no web page may."""

    def __init__(self, keys: tuple[ApiKey, ...], cors_origins: tuple[str, ...]) -> None:
        self._clients = {key.sha256: Client(key.name, frozenset(key.scopes)) for key in keys}
        self._origins = frozenset(cors_origins)
        self._anybody = Client(None, _ALL)

    def identify(self, headers: Mapping[bytes, bytes]) -> Client:
        """Raises RequestRejected (401, 403)."""
        if not self._clients:
            self._refuse_web_pages(headers)
            return self._anybody
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not key:
            raise unauthorized("no API key; send it as 'Authorization: Bearer KEY'")
        client = self._clients.get(sha256(key.strip()).hexdigest())
        if client is None:
            raise unauthorized("this API key is not known; check it, or add it to api_keys in the configuration")
        return client

    def require(self, headers: Mapping[bytes, bytes], scope: Scope) -> Client:
        client = self.identify(headers)
        if scope not in client.scopes:
            raise forbidden(f"this API key has no {scope.value!r} scope; add it to the key's scopes in api_keys")
        return client

    def _refuse_web_pages(self, headers: Mapping[bytes, bytes]) -> None:
        """A page from elsewhere can make a browser call loopback: its Origin or (rebound) Host gives it away."""
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") not in self._origins and not _is_loopback(origin):
            raise forbidden("calls from web pages need their origin in server.cors_origins, or an API key")
        host = headers.get(b"host")
        if host is not None and not _is_loopback(b"http://" + host):
            raise forbidden(f"the host name {host.decode('latin-1')!r} is not this machine's loopback; use 127.0.0.1")


def _is_loopback(url: bytes) -> bool:
    try:
        name = urlsplit(url.decode("latin-1")).hostname
    except ValueError:
        return False
    return name in _LOOPBACK_NAMES
