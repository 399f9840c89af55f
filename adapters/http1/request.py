"""Turns one request into the bytes of its head.

Framing is decided here and only here: hop-by-hop headers of the caller are dropped, so that what a client sent us
cannot change where the engine thinks this request ends.
"""

from __future__ import annotations

from collections.abc import Sequence

Header = tuple[bytes, bytes]

_OURS = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


def encode_head(method: str, target: bytes | str, host: bytes, headers: Sequence[Header], length: int) -> bytes:
    """The request line and headers, up to and including the empty line; `length` is the body's size in bytes.

    Raises `ValueError` where the method, target or a header holds a line break (or the line a space) of its own.
    """
    path = target if isinstance(target, bytes) else target.encode("ascii")
    line = b"%s %s HTTP/1.1" % (method.encode("ascii"), path)
    lines = [line, b"host: " + host]
    lines += [name + b": " + value for name, value in headers if name.lower() not in _OURS]
    if length or method not in _BODILESS:
        lines.append(b"content-length: %d" % length)
    lines.append(b"\r\n")
    head = b"\r\n".join(lines)
    if not head.count(b"\n") == head.count(b"\r") == len(lines) or line.count(b" ") != 2:
        raise ValueError(f"cannot encode the request {method} {target!r}: a line break or space in a field")
    return head
