"""vLLM's errors in OpenAI's terms, with nothing in them that tells about the machine behind us.

vLLM answers in five shapes (its own with an integer code, a bare string, FastAPI's `detail`, Anthropic's, plain text);
whatever else a body holds becomes an error by its status.
"""

import ipaddress
import re
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

import orjson

from adapters.base import NormalError
from adapters.vllm.picture_errors import picture_fault

_MAX_MESSAGE_CHARS = 2000
_MAX_FIELD_CHARS = 200
_MAX_BODY_BYTES = 256 * 1024  # an error body is parsed only when it is of a sane size

_TYPE_BY_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_CODE_BY_STATUS = {401: "invalid_api_key", 429: "rate_limit_exceeded", 503: "engine_busy"}
_ABOUT_THE_REQUEST = frozenset({400, 422, 500})  # vLLM says some of what is wrong with a picture as 500
_SHUTTING_DOWN = "cannot schedule new futures after shutdown"
_ENGINE_DIED = "EngineCore encountered an issue"

_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,9}://[^\s'\"<>()\]]+", re.IGNORECASE)
_SOCKET = re.compile(r"\bunix:[^\s'\"<>()]+")
_HOST_PORT = re.compile(r"\b(?:localhost|\d{1,3}(?:\.\d{1,3}){3})(?::\d{1,5})?\b")
_HOST_FIELD = re.compile(r"\bhost=(?:'[^']*'|\"[^\"]*\"|[^\s,)]+)(?:,\s*port=\d+)?")
_FILE_PATH = re.compile(r"(?<![\w/.:])/(?!v\d/)(?:[\w.+@~-]+/)+[\w.+@~-]*")
_TRACE_LINE = re.compile(r"\n?\s*File [^\n]*, line \d+[^\n]*(?:\n\s+[^\n]*)?")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_INTERNAL_SUFFIXES = (".local", ".internal", ".lan", ".svc", ".localhost", ".localdomain", ".home.arpa")


def normalise(status: int, body: bytes) -> NormalError:
    """Map one error response; `status` as the engine sent it. Never raises."""
    fields = _fields(body)
    message = public_message(fields.get("message")) or _default_message(status)
    param = _param(fields)
    if _SHUTTING_DOWN in message:
        return _retry(503, "the engine is shutting down", "engine_stopping")
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return _retry(status, message, "engine_busy")
    fault = picture_fault(message) if status in _ABOUT_THE_REQUEST else None
    if fault is not None:
        return NormalError(400, fault.message, "invalid_request_error", "image_url", fault.code)
    if _ENGINE_DIED in message:
        message = "the engine failed while it worked on this request"
    status = status if 400 <= status <= 599 else 502
    return NormalError(
        status=status,
        message=message,
        type=_TYPE_BY_STATUS.get(status) or ("invalid_request_error" if status < 500 else "server_error"),
        param=param,
        code=_code(status, fields, message),
        retryable=status == HTTPStatus.TOO_MANY_REQUESTS,
    )


def public_message(value: object) -> str:
    """The text of an engine's message without paths, addresses and hosts of ours; "" when there is none."""
    if not isinstance(value, str):
        return ""
    text = value[: 4 * _MAX_MESSAGE_CHARS]
    for pattern, replacement in ((_TRACE_LINE, ""), (_ADDRESS, ""), (_SOCKET, "<engine>"), (_HOST_FIELD, "<engine>")):
        text = pattern.sub(replacement, text)
    text = _outside_urls(text)
    return _CONTROL.sub(" ", text).strip()[:_MAX_MESSAGE_CHARS]


def _outside_urls(text: str) -> str:
    """Hide paths and addresses, but leave the public addresses that the caller sent us himself."""
    parts: list[str] = []
    end = 0
    for match in _URL.finditer(text):
        parts += [_hide(text[end : match.start()]), match.group() if _is_public(match.group()) else "<engine>"]
        end = match.end()
    return "".join([*parts, _hide(text[end:])])


def _hide(text: str) -> str:
    return _FILE_PATH.sub("<path>", _HOST_PORT.sub("<engine>", text))


def _is_public(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme.lower() not in {"http", "https"} or ("." not in host and ":" not in host):
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return not host.lower().rstrip(".").endswith(_INTERNAL_SUFFIXES)


def _fields(body: bytes) -> Mapping[str, object]:
    """Message, type, param and code from whatever shape the body has; a field may have any type still."""
    value = _parse(body)
    if isinstance(value, Mapping):
        error = value.get("error")
        if isinstance(error, Mapping):
            return error
        if isinstance(error, str):
            return {"message": error}
        if "detail" in value:
            return _detail(value["detail"])
        return value
    # Not JSON, or a bare string: plain text may be passed on, a page of markup tells nobody anything.
    text = value if isinstance(value, str) else body[:_MAX_MESSAGE_CHARS].decode("utf-8", "replace")
    return {} if text.lstrip().startswith(("<", "{", "[")) or "\ufffd" in text else {"message": text}


def _detail(detail: object) -> Mapping[str, object]:
    """FastAPI's errors: a sentence, or a list of `{"loc": [...], "msg": ...}`."""
    if isinstance(detail, list) and detail and isinstance(detail[0], Mapping):
        location = detail[0].get("loc")
        names = [str(name) for name in location] if isinstance(location, list) else []
        return {"message": detail[0].get("msg"), "param": ".".join(names)}
    return {"message": detail}


def _parse(body: bytes) -> object:
    text = body.strip()
    # In a stream the error is one event.
    text = text.removeprefix(b"data:").split(b"\n\n", 1)[0] if text.startswith(b"data:") else text
    if len(text) > _MAX_BODY_BYTES:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _code(status: int, fields: Mapping[str, object], message: str) -> str | None:
    if _text(fields.get("param")) == "input_tokens" or "maximum context length" in message:
        return "context_length_exceeded"
    if status == HTTPStatus.NOT_FOUND and _text(fields.get("param")) == "model":
        return "model_not_found"
    code = _text(fields.get("code"))  # vLLM's is the status as a number, which says nothing new
    return code or _CODE_BY_STATUS.get(status)


def _param(fields: Mapping[str, object]) -> str | None:
    name = _text(fields.get("param")).removeprefix("body.")
    return None if name.isdigit() else name or None  # for broken JSON vLLM gives the place in the body


def _text(value: object) -> str:
    return public_message(value)[:_MAX_FIELD_CHARS]


def _retry(status: int, message: str, code: str) -> NormalError:
    return NormalError(status=status, message=message, type="server_error", code=code, retryable=True)


def _default_message(status: int) -> str:
    try:
        return f"the engine answered {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"the engine answered {status}"
