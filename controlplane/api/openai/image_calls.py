"""Image calls on the warm path: bodies pass untouched unless the model or the form of the answer must be renamed.

Pictures that are wanted as URLs become artifacts; engines are only ever asked for base64.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from controlplane.api.auth import Keyring
from controlplane.api.body import CallerGone, read_body
from controlplane.api.multipart import Form, is_form, read_form
from controlplane.api.openai.envelope import read_deadline, read_envelope, read_priority
from controlplane.api.reply import JSON_TYPE, Receive, Reply, Send
from controlplane.api.serving import Serving
from controlplane.core.model import InferenceType
from controlplane.errors import RequestRejected
from controlplane.loop import rejections
from controlplane.loop.admission import Admission, Ask

_DRAWING = (InferenceType.TEXT2IMAGE,)
_EDITING = (InferenceType.TEXT2IMAGE, InferenceType.IMAGE_PROCESSING)
_DEFAULT_MODEL = InferenceType.TEXT2IMAGE.value
_FLAGS = {"true": True, "false": False, "": False}

IMAGE_PATHS: Mapping[str, tuple[InferenceType, ...]] = {
    "/v1/images/generations": _DRAWING,
    "/v1/images/edits": _EDITING,
}


class _Wanted(NamedTuple):
    """What admission needs of an image call."""

    model: str
    stream: bool
    as_urls: bool
    priority: int | None
    body_for: Callable[[str | None], bytes]


class ImageCalls:
    """ASGI application for every path in IMAGE_PATHS, POST only."""

    def __init__(self, keyring: Keyring, admission: Admission, serving: Serving, max_body_bytes: int) -> None:
        self._keyring = keyring
        self._admission = admission
        self._serving = serving
        self._max_body_bytes = max_body_bytes

    async def __call__(self, path: str, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        try:
            client = self._keyring.identify(headers)
            body = await read_body(receive, headers, self._max_body_bytes)
            content_type = headers.get(b"content-type", JSON_TYPE)
            wanted = (
                _of_form(headers, read_form(content_type, body)) if is_form(content_type) else _of_json(headers, body)
            )
            ask = Ask(
                method="POST",
                path=path,
                model=wanted.model,
                types=IMAGE_PATHS[path],
                body_for=wanted.body_for,
                content_type=content_type,
                stream=wanted.stream,
                priority=wanted.priority,
                deadline_seconds=read_deadline(headers),
                client=client.name,
            )
            exchange = self._admission.admit(ask)
        except RequestRejected as exc:
            await Reply(send).error(exc)
        except CallerGone:
            return
        else:
            await self._serving(exchange, receive, send)


def _of_json(headers: Mapping[bytes, bytes], body: bytes) -> _Wanted:
    envelope = read_envelope(headers, body, _DEFAULT_MODEL)
    as_urls = _as_urls(envelope.fields.get("response_format"), stream=envelope.stream)
    if as_urls:
        fields = {**envelope.fields, "response_format": "b64_json"}
        envelope = envelope._replace(fields=fields)

    def body_for(served_name: str | None) -> bytes:
        return envelope.body_for(served_name or (envelope.model if as_urls else None))

    return _Wanted(envelope.model, envelope.stream, as_urls, envelope.priority, body_for)


def _of_form(headers: Mapping[bytes, bytes], form: Form) -> _Wanted:
    model = form.text("model")
    if model == "":
        raise rejections.invalid("model must be a text: the id or alias of a model, or a type", "model", "invalid_type")
    stream = _FLAGS.get((form.text("stream") or "").lower())
    if stream is None:
        raise rejections.invalid("stream must be true or false", "stream", "invalid_type")
    as_urls = _as_urls(form.text("response_format"), stream=stream)
    changes = {"response_format": "b64_json"} if as_urls else {}

    def body_for(served_name: str | None) -> bytes:
        renamed = changes if served_name is None else {**changes, "model": served_name}
        return form.with_texts(renamed) if renamed else form.raw

    priority = read_priority(headers, {"priority": _number(form.text("priority"))})
    return _Wanted(model or _DEFAULT_MODEL, stream, as_urls, priority, body_for)


def _as_urls(response_format: object, *, stream: bool) -> bool:
    if response_format in (None, "b64_json"):
        return False
    if response_format != "url":
        message = f'response_format must be "url" or "b64_json", not {repr(response_format)[:40]}'
        raise rejections.invalid(message, "response_format", "invalid_value")
    if stream:
        message = 'a stream carries its pictures as b64_json; leave out stream or response_format "url"'
        raise rejections.invalid(message, "response_format", "invalid_value")
    return True


def _number(text: str | None) -> object:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 6 else text
