"""What a body asks for: chat, completions, responses or embeddings, checked as vLLM checks them.

Only the fields that change what the simulated engine does are looked at; vLLM lets unknown ones pass as well.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import orjson

from engines.pictures.encoding import from_data_url
from engines.pictures.intake import PictureRefused
from engines.simulated.pictures import seen
from engines.simulated.text import count_tokens, detokenize
from engines.simulated.wire import Request

Body = dict[str, Any]  # a JSON object as it came

_LARGEST_UPLOAD_MIB = 64


class Refusal(Exception):
    """The request is answered with an error in vLLM's shape."""

    def __init__(self, status: int, message: str, kind: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def content(self) -> Body:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}}


def bad_request(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, message, "BadRequestError", param)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One generation that a client asked for."""

    id: str  # without the prefix of its kind of answer
    model: str
    prompt: str  # the last thing the user said: what the answer echoes
    prompt_tokens: int
    limit: int
    reason: str  # how the answer ends when nothing interferes: stop or length
    priority: int
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What this engine serves and allows."""

    models: tuple[str, ...]
    max_model_len: int
    answer_tokens: int
    takes_images: bool = False


def read_body(request: Request) -> Body:
    try:
        body = orjson.loads(request.body)
    except orjson.JSONDecodeError as exc:
        raise Refusal(400, f"There was an error parsing the body: {exc}", "Bad Request") from exc
    if not isinstance(body, dict):
        raise Refusal(400, "Input should be a valid dictionary", "Bad Request", "body")
    return body


def wanted_chat(request: Request, limits: Limits) -> Wanted:
    """A body for /v1/chat/completions. Raises `Refusal`."""
    body = read_body(request)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request("Field required: messages must be a non-empty list", "messages")
    key = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    return _wanted(request, body, [_message(message, limits) for message in messages], key, limits)


def wanted_completion(request: Request, limits: Limits) -> Wanted:
    """A body for /v1/completions. Raises `Refusal`."""
    body = read_body(request)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        prompt = _decoded(prompt)
    if not isinstance(prompt, str) or not prompt:
        raise bad_request("prompt must be one string or one list of token ids", "prompt")
    return _wanted(request, body, [("user", prompt)], "max_tokens", limits)


def wanted_response(request: Request, limits: Limits) -> Wanted:
    """A body for /v1/responses. Raises `Refusal`."""
    body = read_body(request)
    given = body.get("input")
    turns: list[tuple[str, str]]
    if isinstance(given, str) and given:
        turns = [("user", given)]
    elif isinstance(given, list) and given:
        turns = [_message(item, limits) for item in given]
    else:
        raise bad_request("Field required: input must be a string or a non-empty list", "input")
    return _wanted(request, body, turns, "max_output_tokens", limits)


@dataclass(frozen=True, slots=True)
class WantedEmbeddings:
    """Texts to embed."""

    model: str
    texts: tuple[str, ...]
    dimensions: int | None
    as_base64: bool
    priority: int


def wanted_embeddings(request: Request, limits: Limits) -> WantedEmbeddings:
    """A body for /v1/embeddings. Raises `Refusal`."""
    body = read_body(request)
    given = body.get("input")
    entries = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    texts = tuple(entry if isinstance(entry, str) else _decoded(entry) for entry in entries)
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise bad_request("encoding_format must be float or base64", "encoding_format")
    for text in texts:
        _check_length(count_tokens(text), 0, limits)
    return WantedEmbeddings(
        model=model_name(body, limits),
        texts=texts,
        dimensions=_integer(body, "dimensions", minimum=1),
        as_base64=encoding == "base64",
        priority=priority_of(request, body),
    )


def model_name(body: Body, limits: Limits) -> str:
    """The served model that the body names; the first one where it names none."""
    name = body.get("model")
    if name is None:
        return limits.models[0]
    if name not in limits.models:
        raise Refusal(404, f"The model `{name}` does not exist.", "NotFoundError", "model")
    return str(name)


def _wanted(request: Request, body: Body, turns: list[tuple[str, str]], limit_key: str, limits: Limits) -> Wanted:
    if body.get("n") not in (None, 1):
        raise bad_request("the simulated engine gives one choice: n must be 1", "n")
    asked = _integer(body, limit_key, minimum=1)
    prompt_tokens = sum(count_tokens(text) for _, text in turns)
    _check_length(prompt_tokens, asked or 1, limits)
    room = limits.max_model_len - prompt_tokens
    options = body.get("stream_options")
    return Wanted(
        id=request.headers.get(b"x-request-id", b"").decode("latin-1") or uuid.uuid4().hex,
        model=model_name(body, limits),
        prompt=next((text for role, text in reversed(turns) if role == "user"), turns[-1][1]),
        prompt_tokens=prompt_tokens,
        limit=asked or min(limits.answer_tokens, room),
        reason="length" if asked or room < limits.answer_tokens else "stop",
        priority=priority_of(request, body),
        stream=_flag(body, "stream"),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _message(message: object, limits: Limits) -> tuple[str, str]:
    """(role, text) of one chat message or input item."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise bad_request("each message must be an object with a role", "messages")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return message["role"], content or ""
    if not isinstance(content, list):
        raise bad_request("content must be a string or a list of parts", "messages")
    return message["role"], "\n".join(_part(part, limits) for part in content)


def _part(part: object, limits: Limits) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if limits.takes_images and isinstance(part, dict) and kind in ("image_url", "input_image"):
        return seen(uploaded_image(part))
    if kind not in ("text", "input_text", "output_text") or not isinstance(part, dict):
        raise bad_request(f"At most 0 {kind or 'untyped part'}(s) may be provided in one prompt.", "messages")
    return str(part.get("text", ""))


def uploaded_image(part: Body) -> bytes:
    """The bytes of an image part; as in an engine without network, only a data URL has any."""
    given = part.get("image_url")
    return uploaded(given.get("url") if isinstance(given, dict) else given, "image_url")


def uploaded(given: object, param: str) -> bytes:
    """The bytes of a data URL. Raises `Refusal`."""
    try:
        return from_data_url(given if isinstance(given, str) else "", _LARGEST_UPLOAD_MIB)
    except PictureRefused as exc:
        raise bad_request(str(exc), param) from exc


def _check_length(prompt_tokens: int, output_tokens: int, limits: Limits) -> None:
    if prompt_tokens + output_tokens > limits.max_model_len:
        message = (
            f"This model's maximum context length is {limits.max_model_len} tokens. However, you requested "
            f"{output_tokens} output tokens and your prompt contains {prompt_tokens} input tokens. "
            "Please reduce the length of the input prompt or the number of requested output tokens."
        )
        raise bad_request(message, "input_tokens")


def _decoded(tokens: object) -> str:
    if not isinstance(tokens, list) or not tokens or not all(type(token) is int for token in tokens):
        raise bad_request("expected a string or a non-empty list of token ids", "input")
    try:
        return detokenize(tokens)
    except ValueError as exc:
        raise bad_request(str(exc), "input") from exc


def _integer(body: Body, key: str, minimum: int) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    if type(value) is not int:
        raise bad_request(f"{key}: Input should be a valid integer", key)
    if value < minimum:
        raise bad_request(f"{key} must be at least {minimum}, got {value}.", key)
    return value


def _flag(body: Body, key: str) -> bool:
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise bad_request(f"{key}: Input should be a valid boolean", key)
    return value is True


def priority_of(request: Request, body: Body) -> int:
    """The header wins over the body; lower runs earlier. In the header of an image engine higher does."""
    header = request.headers.get(b"x-vllm-priority")
    turned = request.headers.get(b"x-priority")
    try:
        if header is not None:
            return int(header)
        if turned is not None:
            return 100 - int(turned)
    except ValueError as exc:
        raise bad_request("the priority must be a whole number", "priority") from exc
    return _integer(body, "priority", minimum=-(2**63)) or 0
