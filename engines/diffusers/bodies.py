"""Reads bodies that carry images: multipart forms, and JSON with data URLs. Decodes no picture."""

from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request

from engines.diffusers.refusals import invalid, unlike
from engines.diffusers.wire import ImageInJson, RequestBody
from engines.pictures.encoding import from_data_url
from engines.pictures.intake import PictureRefused

_MIB = 2**20
_MOST_FIELDS = 100
_MOST_FILES = 20

Body = TypeVar("Body", bound=RequestBody)


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart body: the text of its fields, the bytes of its files; `image[]` and `image[0]` count as `image`."""

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)


def is_multipart(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def read_form(request: Request, limit_mib: int) -> Form:
    """An empty text counts as absent. Raises `Refused`, and Starlette's HTTPException for a broken form."""
    read = Form()
    limits = {"max_files": _MOST_FILES, "max_fields": _MOST_FIELDS, "max_part_size": limit_mib * _MIB}
    async with request.form(**limits) as form:
        for key, value in form.multi_items():
            name = key.partition("[")[0]
            if isinstance(value, UploadFile):
                read.files.setdefault(name, []).append(await value.read())
            elif name in read.texts:
                raise invalid("is given more than once", name)
            elif value:
                read.texts[name] = value
    return read


def from_json(shape: type[Body], content: bytes) -> Body:
    """Raises `Refused`. Types are taken at their word: "5" is no number, and true is none."""
    try:
        return _without_slips(shape.model_validate_json(content, strict=True))
    except ValidationError as exc:
        raise unlike(exc) from exc


def from_texts(shape: type[Body], texts: dict[str, object]) -> Body:
    """From the fields of a form, where everything is text. Raises `Refused`."""
    try:
        return _without_slips(shape.model_validate(texts))
    except ValidationError as exc:
        raise unlike(exc) from exc


def _without_slips(body: Body) -> Body:
    if body.slip is not None:
        name, meant = body.slip
        raise invalid(f"there is no such field; did you mean {meant}?", name, "unknown_field")
    return body


def image_bytes(given: ImageInJson, param: str, limit_mib: float) -> bytes:
    """The bytes of an image inside JSON. Raises `Refused`."""
    try:
        return from_data_url(given if isinstance(given, str) else given.image_url, limit_mib)
    except PictureRefused as exc:
        raise invalid(str(exc), param, "invalid_image") from exc
