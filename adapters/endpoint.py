"""Where an engine listens: a TCP address or a unix socket.

Only names the place; connecting to it is the business of `adapters.http1`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One engine's address. Exactly one of (`host`, `port`) and `uds` is set.

    Build it with `Endpoint.tcp` or `Endpoint.unix`; a mixture raises `ValueError`.
    """

    host: str | None = None
    port: int | None = None
    uds: str | None = None

    def __post_init__(self) -> None:
        if self.uds is not None:
            complete = bool(self.uds) and self.host is None and self.port is None
        else:
            complete = bool(self.host) and self.port is not None and 0 < self.port < 65536
        if not complete:
            raise ValueError(f"an endpoint is a host with a port from 1 to 65535, or a socket path: {self!r}")

    @classmethod
    def tcp(cls, host: str, port: int) -> Endpoint:
        """An address such as ("127.0.0.1", 8001)."""
        return cls(host=host, port=port)

    @classmethod
    def unix(cls, path: str) -> Endpoint:
        """The path of a unix socket; the kernel takes at most 107 bytes."""
        return cls(uds=path)

    @property
    def authority(self) -> str:
        """What goes into the Host header: `host:port`, or `localhost` on a unix socket."""
        if self.uds is not None:
            return "localhost"
        host = f"[{self.host}]" if self.host is not None and ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """For logs and messages: `http://host:port`, or `unix:/path`."""
        return f"unix:{self.uds}" if self.uds is not None else f"http://{self.authority}"

    def __str__(self) -> str:
        return self.url
