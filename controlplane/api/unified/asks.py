"""What a caller may put under /api/v1: the fields of each kind, from JSON or a multipart form, each refusal by name.

Parameters for the engine are not looked at; it judges them.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.tasks import ImageProcessing, ImageToText, Picture, Task, TextToImage, TextToText
from controlplane.api.arrival import Arrival
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
Tag = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]*$")]
_FILE = "file"
_LONGEST_WAIT_SECONDS = 3600.0
_JSON_TEXTS = ("parameters", "priority", "deadline_seconds", "wait", "wait_seconds", "tags")
# Of the call, not of the work: a payload has no use for them.
_OF_THE_CALL = frozenset(
    {"image", "image_path", "type", "model", "priority", "deadline_seconds", "wait", "wait_seconds"}
    | {"callback_url", "tags"}
)
SUBMIT_PATH = "/api/v1/requests"


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
    wait_seconds: Annotated[float, Field(ge=0, le=_LONGEST_WAIT_SECONDS)] | None = None
    callback_url: Annotated[str, Field(max_length=2000, pattern=r"^https?://[^\s/]")] | None = None
    tags: Annotated[list[Tag], Field(max_length=16)] = Field(default_factory=list)

    def work(self) -> dict[str, Any]:
        """What is to be done, without what is to be done with the answer."""
        return self.model_dump(exclude=set(_OF_THE_CALL), exclude_none=True)


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


class Wish(NamedTuple):
    """What is wanted of a job."""

    callback_url: str | None
    tags: tuple[str, ...]
    wait_seconds: float


class UnifiedAsk(NamedTuple):
    """A call under /api/v1, checked as far as it is ours to judge. `model` may be the type.

    `path` is the one of its kind. `wish` None: the caller waits for the answer. `work` is the body without the rest.
    """

    path: str

    type: InferenceType
    model: str
    priority: int | None
    deadline_seconds: float | None
    parameters: Mapping[str, object]
    task: Callable[[Media], Awaitable[Task]]
    wish: Wish | None
    work: Callable[[], dict[str, Any]]


def type_of(path: str) -> InferenceType | None:
    """None for the path that takes every kind."""
    shape = UNIFIED_PATHS.get(path)
    return None if shape is None else shape.kind


async def read_ask(arrival: Arrival) -> UnifiedAsk:
    """Raises RequestRejected naming the field."""
    headers, upload = arrival.headers, arrival.upload
    content_type = headers.get(b"content-type", JSON_TYPE)
    if is_form(content_type):
        form = await read_form_aside(content_type, arrival.body)
        fields, upload = _of_form(form), form.file(_FILE)
    else:
        fields = read_object(arrival.body)
    path = _path_of(arrival.path, fields.get("type"))
    shape = UNIFIED_PATHS[path]
    try:
        asked = shape.model_validate(fields)
    except ValidationError as exc:
        raise _refusal(shape, exc) from exc
    _check_type(asked)
    return UnifiedAsk(
        path=path,
        type=shape.kind,
        model=asked.model or shape.kind.value,
        priority=read_priority(headers, {"priority": asked.priority}),
        deadline_seconds=read_deadline(headers, asked.deadline_seconds),
        parameters=asked.parameters,
        task=lambda media: asked.task(upload, media),
        wish=_wish(asked, waits=arrival.path != SUBMIT_PATH),
        work=asked.work,
    )


def _path_of(path: str, named: object) -> str:
    if path != SUBMIT_PATH:
        return path
    for each, shape in UNIFIED_PATHS.items():
        if named == shape.kind.value:
            return each
    kinds = ", ".join(shape.kind.value for shape in UNIFIED_PATHS.values())
    code = "missing_field" if named is None else "invalid_value"
    raise rejections.invalid(f"type must be one of {kinds}", "type", code)


def _wish(asked: _Kind, *, waits: bool) -> Wish | None:
    """None where the caller waits for the answer, as long as it takes. Raises RequestRejected."""
    later = asked.wait_seconds is not None or asked.callback_url is not None
    if asked.wait is True and later:
        named = "wait_seconds" if asked.wait_seconds is not None else "callback_url"
        raise rejections.invalid(f"{named} belongs to a job; leave out wait or make it false", named, "invalid_value")
    if asked.wait is False or later or (asked.wait is None and not waits):
        return Wish(asked.callback_url, tuple(asked.tags), asked.wait_seconds or 0.0)
    if asked.tags:
        raise rejections.invalid("tags belong to a job; add wait false", "tags", "invalid_value")
    return None


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


def _check_type(asked: _Kind) -> None:
    if asked.type not in (None, asked.kind.value):
        raise rejections.invalid(
            f"type must be {asked.kind.value} here, not {asked.type!r:.40}", "type", "invalid_value"
        )


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
