"""What a body asks for under /v1/images: checked as our diffusers engine checks it, each refusal naming its field.

JSON with data URLs or multipart forms, read into the same fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson
from PIL import Image
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, create_form_parser

from engines.pictures.encoding import OutputFormat, output_format
from engines.pictures.intake import Limits as PictureLimits
from engines.pictures.intake import PictureRefused, read_picture
from engines.pictures.operations import OPERATIONS, Operation, SizeLimits, check_size, operation_of
from engines.pictures.refusals import ParameterRefused
from engines.simulated.requests import Body, Limits, Refusal, bad_request, model_name, priority_of, read_body, uploaded
from engines.simulated.wire import Request

SCHEDULERS = ("ddim", "dpmpp_2m", "euler", "euler_a", "flow_euler")
_MULTIPLE_OF = 8
_LARGEST_SIDE = 2048
_MOST_STEPS = 200
_MOST_PICTURES = 10
_DEFAULT_SIZE = (64, 64)
_DEFAULT_STEPS = 4
_RESULT = SizeLimits(max_pixels=_LARGEST_SIDE**2)
_TEXTS = frozenset(
    {"model", "prompt", "negative_prompt", "size", "scheduler", "output_format", "operation", "parameters", "user"}
)


@dataclass(frozen=True, slots=True)
class WantedPictures:
    """One request for pictures. `source` is the uploaded picture with its bytes, for edits."""

    request_id: str
    model: str
    prompt: str
    n: int
    size: tuple[int, int]
    seed: int | None
    steps: int
    output_format: OutputFormat
    compression: int | None
    partial_images: int
    priority: int
    stream: bool
    source: bytes | None = None


@dataclass(frozen=True, slots=True)
class WantedOperation:
    """One operation on an uploaded picture, checked."""

    model: str
    operation: Operation
    picture: Image.Image
    output_format: OutputFormat
    priority: int


def wanted_pictures(request: Request, limits: Limits) -> WantedPictures:
    """A body for /v1/images/generations. Raises `Refusal`."""
    return _wanted(request, _fields(request), limits, None)


def wanted_edit(request: Request, limits: Limits) -> WantedPictures:
    """A body for /v1/images/edits. Raises `Refusal`."""
    fields = _fields(request)
    given = fields.get("image", fields.get("image[]"))
    source = _content(given[0] if isinstance(given, list) and given else given, "image")
    if fields.get("mask") is not None:
        opened(_content(fields["mask"], "mask"), "mask")
    strength = _number(fields, "strength", 0, 1)
    return _wanted(request, fields, limits, None if strength == 0 else source)


def wanted_operation(request: Request, limits: Limits) -> WantedOperation:
    """A body for /v1/images/process. Raises `Refusal`."""
    fields = _fields(request)
    given = fields.get("parameters")
    if isinstance(given, str):
        given = _object(given)
    if given is not None and not isinstance(given, dict):
        _refuse("parameters", "an object", given)
    name = fields.get("operation")
    if not isinstance(name, str):
        _refuse("operation", f"one of {', '.join(OPERATIONS)}", name)
    try:
        operation = operation_of(name, given or {})
        picture = opened(_content(fields.get("image"), "image"), "image")
        check_size(operation, picture.size, _RESULT)
    except ParameterRefused as exc:
        raise bad_request(str(exc), exc.field) from exc
    return WantedOperation(
        model=model_name(fields, limits),
        operation=operation,
        picture=picture,
        output_format=_format(fields),
        priority=priority_of(request, fields),
    )


def opened(content: bytes, param: str) -> Image.Image:
    """The uploaded picture. Raises `Refusal`."""
    try:
        return read_picture(content, PictureLimits())
    except PictureRefused as exc:
        raise bad_request(f"{param}: {exc}", param) from exc


def _wanted(request: Request, fields: Body, limits: Limits, source: bytes | None) -> WantedPictures:
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise bad_request("prompt must be a text", "prompt")
    if fields.get("response_format") not in (None, "b64_json"):
        raise bad_request("response_format must be b64_json", "response_format")
    if source is not None:
        opened(source, "image")
    _one_of(fields, "scheduler", SCHEDULERS)
    for name in ("guidance", "guidance_scale"):
        _number(fields, name, 0, 100)
    steps = _whole(fields, "steps", 1, _MOST_STEPS) or _whole(fields, "num_inference_steps", 1, _MOST_STEPS)
    return WantedPictures(
        request_id=request.headers.get(b"x-request-id", b"").decode("latin-1"),
        model=model_name(fields, limits),
        prompt=prompt,
        n=_whole(fields, "n", 1, _MOST_PICTURES) or 1,
        size=_size(fields),
        seed=_whole(fields, "seed", 0, 2**63 - 1),
        steps=steps or _DEFAULT_STEPS,
        output_format=_format(fields),
        compression=_whole(fields, "output_compression", 0, 100),
        partial_images=_whole(fields, "partial_images", 0, 3) or 0,
        priority=priority_of(request, fields),
        stream=_flag(fields, "stream"),
        source=source,
    )


def _fields(request: Request) -> Body:
    kind = request.headers.get(b"content-type", b"application/json")
    return _form(kind, request.body) if kind.lower().startswith(b"multipart/form-data") else read_body(request)


def _form(kind: bytes, body: bytes) -> Body:
    """Every part by its name; numbers and flags become what they would be in JSON."""
    fields: Body = {}

    def on_field(field: Field) -> None:
        name = (field.field_name or b"").decode("utf-8", "replace")
        text = (field.value or b"").decode("utf-8", "replace")
        fields[name] = text if name in _TEXTS else _plain(text)

    def on_file(file: File) -> None:
        name = (file.field_name or b"").decode("utf-8", "replace")
        file.file_object.seek(0)
        fields.setdefault(name, file.file_object.read())

    try:
        parser = create_form_parser({"Content-Type": kind}, on_field, on_file, config={"MAX_MEMORY_FILE_SIZE": 1 << 30})
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as exc:
        raise Refusal(400, f"There was an error parsing the body: {exc}", "Bad Request") from exc
    return fields


def _object(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        _refuse("parameters", "JSON text", text)


def _plain(text: str) -> object:
    read: Mapping[str, object] = {"true": True, "false": False}
    if text in read:
        return read[text]
    convert: Callable[[str], object]
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _content(given: object, param: str) -> bytes:
    """The bytes of an upload, or of a data URL."""
    return given if isinstance(given, bytes) else uploaded(given, param)


def _size(fields: Body) -> tuple[int, int]:
    text = fields.get("size")
    if text in (None, "auto"):
        return _DEFAULT_SIZE
    sides = text.split("x") if isinstance(text, str) else []
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and len(side) < 6 for side in sides):
        raise bad_request(f'size must be "WIDTHxHEIGHT" or "auto", not {text!r}', "size")
    width, height = int(sides[0]), int(sides[1])
    if not all(0 < side <= _LARGEST_SIDE and side % _MULTIPLE_OF == 0 for side in (width, height)):
        limit = f"multiples of {_MULTIPLE_OF} up to {_LARGEST_SIDE}"
        raise bad_request(f"both sides of size must be {limit}, not {text}", "size")
    return width, height


def _whole(fields: Body, key: str, lowest: int, highest: int) -> int | None:
    value = fields.get(key)
    if value is not None and (type(value) is not int or not lowest <= value <= highest):
        _refuse(key, f"a whole number from {lowest} to {highest}", value)
    return value if isinstance(value, int) else None


def _number(fields: Body, key: str, lowest: float, highest: float) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value) or not lowest <= value <= highest:
        _refuse(key, f"a number from {lowest} to {highest}", value)
    return float(value)


def _format(fields: Body) -> OutputFormat:
    name = fields.get("output_format", "png")
    try:
        return output_format(name if isinstance(name, str) else repr(name))
    except ParameterRefused as exc:
        raise bad_request(str(exc), exc.field) from exc


def _one_of(fields: Body, key: str, known: tuple[str, ...]) -> str | None:
    value = fields.get(key)
    if value is not None and value not in known:
        _refuse(key, f"one of {', '.join(known)}", value)
    return None if value is None else str(value)


def _flag(fields: Body, key: str) -> bool:
    value: Any = fields.get(key)
    if value is not None and not isinstance(value, bool):
        _refuse(key, "true or false", value)
    return value is True


def _refuse(key: str, expected: str, value: object) -> NoReturn:
    raise bad_request(f"{key} must be {expected}, not {repr(value)[:40]}", key)
