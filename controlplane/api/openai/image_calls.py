"""Image calls on the warm path: bodies pass untouched unless the model or the form of the answer must be renamed.

Pictures that are wanted as URLs become artifacts; engines are only ever asked for base64.
"""

import base64
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from controlplane.api.arrival import Arrival
from controlplane.api.artifacts import kept
from controlplane.api.errors import error_body
from controlplane.api.multipart import Form, is_form, read_form_aside
from controlplane.api.openai.edit_images import find_addresses, inline_addresses
from controlplane.api.openai.envelope import read_deadline, read_envelope, read_priority
from controlplane.api.reply import JSON_TYPE
from controlplane.api.serving import openai_error, plain_form
from controlplane.core.model import InferenceType
from controlplane.errors import RequestRejected
from controlplane.loop import rejections
from controlplane.loop.admission import Admission, Ask
from controlplane.loop.exchange import Accepted, Answer
from controlplane.loop.prepared import AnswerForm, Prepared
from controlplane.media.media import Media

_DRAWING = (InferenceType.TEXT2IMAGE,)
_EDITING = (InferenceType.TEXT2IMAGE, InferenceType.IMAGE_PROCESSING)
_DEFAULT_MODEL = InferenceType.TEXT2IMAGE.value
# What decides which calls an engine can compute together.
_OF_BATCHES = frozenset(
    {"n", "size", "steps", "num_inference_steps", "guidance", "guidance_scale", "scheduler", "strength"}
)
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
    fields: Mapping[str, object]


class ImageReader:
    """For every path in IMAGE_PATHS."""

    def __init__(self, admission: Admission, media: Media) -> None:
        self._admission = admission
        self._media = media

    async def read(self, arrival: Arrival) -> Prepared:
        path, headers, body = arrival.path, arrival.headers, arrival.body
        content_type = headers.get(b"content-type", JSON_TYPE)
        form = await read_form_aside(content_type, body) if is_form(content_type) else None
        wanted = _of_form(headers, form) if form else await self._of_json(path, headers, body)
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
            client=arrival.client,
            fields=wanted.fields,
        )
        return Prepared(ask, self._with_urls(arrival.base()) if wanted.as_urls else plain_form)

    def refusal(self, path: str, rejection: RequestRejected) -> bytes:  # noqa: ARG002
        return error_body(rejection.error)

    async def _of_json(self, path: str, headers: Mapping[bytes, bytes], body: bytes) -> _Wanted:
        envelope = read_envelope(headers, body, _DEFAULT_MODEL)
        as_urls = _as_urls(envelope.fields.get("response_format"), stream=envelope.stream)
        fields = dict(envelope.fields)
        if addresses := find_addresses(fields):
            self._admission.find(envelope.model, IMAGE_PATHS[path], path)
            await inline_addresses(addresses, self._media)
        if as_urls:
            fields["response_format"] = "b64_json"
        if addresses or as_urls:
            envelope = envelope.with_fields(fields)
        return _Wanted(envelope.model, envelope.stream, as_urls, envelope.priority, envelope.body_for, fields)

    def _with_urls(self, base: str) -> Callable[[Accepted], AnswerForm]:
        async def finish(answer: Answer) -> Answer:
            fields = _parsed(answer.body)
            for each in fields["data"]:
                each["url"] = base + await kept(self._media.artifacts, _content(each.pop("b64_json", None)))
            return answer._replace(body=orjson.dumps(fields))

        return lambda _: AnswerForm(finish, openai_error)


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
    return _Wanted(model or _DEFAULT_MODEL, stream, as_urls, priority, body_for, form.texts(_OF_BATCHES))


def _parsed(body: bytes) -> dict[str, Any]:
    """Raises RequestRejected when the engine's answer holds no list of pictures."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise rejections.aborted("the engine's answer is not JSON") from exc
    data = fields.get("data") if isinstance(fields, dict) else None
    if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
        raise rejections.aborted("the engine's answer holds no pictures")
    return dict(fields)


def _content(coded: object) -> bytes:
    try:
        return base64.b64decode(coded if isinstance(coded, str) else "", validate=True)
    except ValueError as exc:
        raise rejections.aborted("the engine's answer holds a picture that is not base64") from exc


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
