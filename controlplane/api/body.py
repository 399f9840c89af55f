"""Reads a request body up to a limit, refusing early what says it will be longer."""

from collections.abc import Mapping

from controlplane.api.reply import Receive
from controlplane.errors import RequestRejected
from controlplane.loop import rejections


class CallerGone(Exception):
    """The caller left before the request was complete; nobody is there to answer."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit_bytes: int) -> bytes:
    """The whole body. Raises RequestRejected (413, 400) and CallerGone."""
    declared = headers.get(b"content-length")
    if declared is not None and (not declared.isdigit() or int(declared) > limit_bytes):
        raise _too_large(limit_bytes)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body") and len(body) <= limit_bytes:
        return body
    parts, size = [body], len(body)
    while message["type"] == "http.request" and message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit_bytes:
            raise _too_large(limit_bytes)
    if message["type"] != "http.request":
        raise CallerGone
    if size > limit_bytes:
        raise _too_large(limit_bytes)
    return b"".join(parts)


def _too_large(limit_bytes: int) -> RequestRejected:
    mib = limit_bytes / (1024 * 1024)
    return rejections.invalid(
        f"the request body is larger than {mib:g} MiB; shorten it or raise server.max_body_mib",
        None,
        "body_too_large",
        413,
    )
