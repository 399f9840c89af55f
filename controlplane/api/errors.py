"""Errors as callers see them: OpenAI's shape, its types, and whether to try again.

The official SDKs retry 408, 409, 429 and 5xx by themselves; `x-should-retry`
and `retry-after` tell them when that is of use.
"""

import math

import orjson

from adapters.base import NormalError
from controlplane.errors import RequestRejected

Headers = list[tuple[bytes, bytes]]

_RETRIED_BY_SDKS = frozenset({408, 409, 429})


def error_body(error: NormalError) -> bytes:
    return orjson.dumps(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


def retry_headers(rejection: RequestRejected) -> Headers:
    """`retry-after` where waiting helps, `x-should-retry: false` where an SDK would retry in vain."""
    if rejection.retry_after_seconds is not None:
        return [(b"retry-after", str(math.ceil(rejection.retry_after_seconds)).encode())]
    status = rejection.error.status
    return [(b"x-should-retry", b"false")] if status in _RETRIED_BY_SDKS or status >= 500 else []


def error_event(error: NormalError) -> bytes:
    """An error inside an event stream; the SDKs raise it as APIError."""
    return b"data: " + error_body(error) + b"\n\n"


def is_error_event(chunk: bytes) -> bool:
    return chunk.startswith(b'data: {"error":')


def unauthorized(message: str) -> RequestRejected:
    return RequestRejected(NormalError(401, message, "authentication_error", None, "invalid_api_key"))


def forbidden(message: str) -> RequestRejected:
    return RequestRejected(NormalError(403, message, "permission_error", None, "forbidden"))


def not_found(what: str) -> RequestRejected:
    return RequestRejected(NormalError(404, what, "not_found_error", None, "not_found"))


def conflict(message: str) -> RequestRejected:
    return RequestRejected(NormalError(409, message, "invalid_request_error", None, "conflict"))


def unavailable(message: str, retry_after_seconds: float) -> RequestRejected:
    return RequestRejected(NormalError(503, message, "server_error", None, "unavailable"), retry_after_seconds)
