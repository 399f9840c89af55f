"""What a caller may put under /api/v1: the fields of each kind, from JSON or a multipart form, each refusal by name.

Parameters for the engine are not looked at; it judges them.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.tasks import ImageProcessing, ImageToText, Picture, Task, TextToImage, TextToText
from controlplane.api.multipart import Form, is_form, read_form_aside
from controlplane.api.openai.chat_images import read_image
from controlplane.api.openai.envelope import read_deadline, read_object, read_priority
from controlplane.api.reply import JSON_TYPE
from controlplane.core.model import InferenceType
from controlplane.errors import RequestRejected
from controlplane.loop import rejections
from controlplane.media.media import Media
from controlplane.settings.suggestions import did_you_mean

Text = Annotated[str, Field(min_length=1)]
_FILE = "file"
_JSON_TEXTS = ("parameters", "priority", "deadline_seconds", "wait")


class _Fields(BaseModel):
    """What every kind has; priority and deadline are read where the headers are."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    kind: ClassVar[InferenceType]

    type: str | None = None
    model: Text | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    priority: object = None
    deadline_seconds: object = None
    wait: bool | None = None
    callback_url: object = None


class _TextToText(_Fields):
    kind = InferenceType.TEXT2TEXT
    prompt: Text

    async def task(self, _upload: bytes | None, _media: Media) -> Task:
        return TextToText(self.prompt, self.parameters)


class _TextToImage(_Fields):
    kind = InferenceType.TEXT2IMAGE
    prompt: Text
    negative_prompt: str | None = None

    async def task(self, _upload: bytes | None, _media: Media) -> Task:
        return TextToImage(self.prompt, self.negative_prompt, self.parameters)


class _WithImage(_Fields):
    image: Text | None = None
    image_path: Text | None = None

    async def picture(self, upload: bytes | None, media: Media) -> Picture:
        """The one image, plain. Raises RequestRejected."""
        given = {_FILE: upload, "image": self.image, "image_path": self.image_path}
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            message = "give the image once: as file (multipart), as image (a data URL or address) or as image_path"
            raise rejections.invalid(message, names[-1] if names else "image", "missing_field" if not names else None)
        return Picture(*await media.plain_image(await self._content(upload, media), names[0]))

    async def _content(self, upload: bytes | None, media: Media) -> bytes:
        if upload is not None:
            return upload
        if self.image_path is not None:
            return await media.folder.read(self.image_path)
        return await read_image(self.image or "", "image", media)


class _ImageToText(_WithImage):
    kind = InferenceType.IMAGE2TEXT
    prompt: Text | None = None

    async def task(self, upload: bytes | None, media: Media) -> Task:
        return ImageToText(await self.picture(upload, media), self.prompt, self.parameters)


class _ImageProcessing(_WithImage):
    kind = InferenceType.IMAGE_PROCESSING
    operation: Text

    async def task(self, upload: bytes | None, media: Media) -> Task:
        return ImageProcessing(await self.picture(upload, media), self.operation, self.parameters)


_Kind = _TextToText | _TextToImage | _ImageToText | _ImageProcessing

UNIFIED_PATHS: Mapping[str, type[_Kind]] = {
    "/api/v1/text-to-text": _TextToText,
    "/api/v1/text-to-image": _TextToImage,
    "/api/v1/image-to-text": _ImageToText,
    "/api/v1/image-processing": _ImageProcessing,
}


class UnifiedAsk(NamedTuple):
    """A call under /api/v1, checked as far as it is ours to judge. `model` may be the type."""

    type: InferenceType
    model: str
    priority: int | None
    deadline_seconds: float | None
    parameters: Mapping[str, object]
    task: Callable[[Media], Any]


def type_of(path: str) -> InferenceType:
    return UNIFIED_PATHS[path].kind


async def read_ask(path: str, headers: Mapping[bytes, bytes], body: bytes) -> UnifiedAsk:
    """Raises RequestRejected naming the field."""
    content_type = headers.get(b"content-type", JSON_TYPE)
    upload: bytes | None = None
    if is_form(content_type):
        form = await read_form_aside(content_type, body)
        fields, upload = _of_form(form), form.file(_FILE)
    else:
        fields = read_object(body)
    shape = UNIFIED_PATHS[path]
    try:
        asked = shape.model_validate(fields)
    except ValidationError as exc:
        raise _refusal(shape, exc) from exc
    _check_ours(asked)
    return UnifiedAsk(
        type=shape.kind,
        model=asked.model or shape.kind.value,
        priority=read_priority(headers, {"priority": asked.priority}),
        deadline_seconds=read_deadline(headers, asked.deadline_seconds),
        parameters=asked.parameters,
        task=lambda media: asked.task(upload, media),
    )


def _of_form(form: Form) -> Mapping[str, Any]:
    """Every field as it would be in JSON. A file has one name only."""
    fields: dict[str, Any] = {}
    for part in form.parts:
        if part.is_file and part.name != _FILE:
            raise rejections.invalid(
                f"the upload must be named {_FILE}, not {part.name[:80]}", part.name[:80], "unknown_field"
            )
        if not part.is_file:
            text = form.text(part.name) or ""
            fields[part.name] = _value(part.name, text) if part.name in _JSON_TEXTS else text
    if _FILE in fields:
        raise rejections.invalid("file must be an upload with a file name", _FILE, "invalid_type")
    return fields


def _value(name: str, text: str) -> object:
    """What JSON text stands for; other text stays as it is, for the check that names it."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        if name == "parameters":
            raise rejections.invalid(f"parameters is not JSON: {exc.msg}", name, "invalid_json") from exc
        return text


def _check_ours(asked: _Kind) -> None:
    if asked.type not in (None, asked.kind.value):
        raise rejections.invalid(
            f"type must be {asked.kind.value} here, not {asked.type!r:.40}", "type", "invalid_value"
        )
    if asked.wait is False:
        raise rejections.invalid(
            "wait must be true: every call is answered with its result", "wait", "unsupported_value"
        )
    if asked.callback_url is not None:
        message = "callback_url is not called: every call is answered with its result; leave it out"
        raise rejections.invalid(message, "callback_url", "unsupported_value")


def _refusal(shape: type[_Kind], exc: ValidationError) -> RequestRejected:
    # A misspelt name explains why another is missing.
    error = min(exc.errors(include_url=False, include_input=False), key=lambda each: each["type"] != "extra_forbidden")
    place = ".".join(str(part) for part in error["loc"])[:120]
    if error["type"] == "extra_forbidden":
        near = did_you_mean(place, shape.model_fields)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(shape.model_fields)}"
        return rejections.invalid(f"unknown field {place}; {hint}", place, "unknown_field")
    code = "missing_field" if error["type"] == "missing" else "invalid_value"
    return rejections.invalid(f"{place}: {error['msg'][:1].lower()}{error['msg'][1:]}", place, code)
