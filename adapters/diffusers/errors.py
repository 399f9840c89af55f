"""An image engine's errors in OpenAI's terms.

Ours come in that shape already, with their own codes. What vllm-omni (an integer code) and SGLang-diffusion (FastAPI's
`detail`) say is read as vLLM's errors are, whose shapes they share.
"""

from collections.abc import Mapping
from dataclasses import replace

import orjson

from adapters.base import NormalError
from adapters.vllm import errors as vllm_errors
from adapters.vllm.errors import public_message

OUT_OF_MEMORY = "out_of_memory"
_INSUFFICIENT_STORAGE = 507
_CLIENT_CLOSED = 499
_MAX_BODY_BYTES = 256 * 1024
_MAX_FIELD_CHARS = 200


def normalise(status: int, body: bytes) -> NormalError:
    """Map one error response. Never raises.

    503 (closing, or its line is full) is worth another try. 507 is not: the picture needs more memory than the model
    may use. 499 says that the request was cancelled.
    """
    own = _own(body)
    error = vllm_errors.normalise(status, body) if own is None else _as_told(status, own)
    if error.status >= 500 and "out of memory" in error.message.lower():
        return replace(error, status=_INSUFFICIENT_STORAGE, code=OUT_OF_MEMORY, retryable=False)
    if error.status == _CLIENT_CLOSED:
        return replace(error, code="cancelled")
    return error


def _own(body: bytes) -> Mapping[str, object] | None:
    """The error of our own engine, which is known by its code in words."""
    if len(body) > _MAX_BODY_BYTES:
        return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    error = value.get("error") if isinstance(value, dict) else None
    return error if isinstance(error, dict) and isinstance(error.get("code"), str) else None


def _as_told(status: int, fields: Mapping[str, object]) -> NormalError:
    status = status if 400 <= status <= 599 else 502
    kind = _text(fields.get("type")) or ("invalid_request_error" if status < 500 else "server_error")
    return NormalError(
        status=status,
        message=public_message(fields.get("message")) or f"the engine answered {status}",
        type=kind,
        param=_text(fields.get("param")) or None,
        code=_text(fields.get("code")) or None,
        retryable=status in (429, 503),
    )


def _text(value: object) -> str:
    return public_message(value)[:_MAX_FIELD_CHARS]
