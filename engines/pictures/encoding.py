"""Writes pictures as files and data URLs, and reads data URLs. Never writes metadata of the picture it came from."""

import base64
import binascii
import re
from dataclasses import dataclass
from io import BytesIO
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from PIL import Image

from engines.pictures.intake import PictureRefused
from engines.pictures.refusals import ParameterRefused, unknown

OutputFormat = Literal["png", "jpeg", "webp"]

CONTENT_TYPES: Final[dict[OutputFormat, str]] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
DEFAULT_QUALITY: Final = 92

_MOST_SIDE: Final[dict[OutputFormat, int]] = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}
_SUBSAMPLING_BELOW = 90
_HEAD = re.compile(r"\s*data:(?P<type>[\w.+-]+/[\w.+-]+)?(?P<rest>(?:;[^;,]*)*),", re.ASCII | re.IGNORECASE)
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a picture is written. `quality` 0 to 100, 100 the best; PNG is exact and takes no notice of it."""

    output_format: OutputFormat = "png"
    quality: int | None = None

    @property
    def content_type(self) -> str:
        return CONTENT_TYPES[self.output_format]


def output_format(name: str, field: str = "output_format") -> OutputFormat:
    """The format of that name, `jpg` included. Raises ParameterRefused that names `field`."""
    wanted = "jpeg" if name == "jpg" else name
    for known in CONTENT_TYPES:
        if known == wanted:
            return known
    raise ParameterRefused(field, unknown("format", name, CONTENT_TYPES))


def encode(image: Image.Image, encoding: Encoding) -> bytes:
    """The picture as a file. Transparency becomes white in JPEG. Raises ParameterRefused when it is too large."""
    most = _MOST_SIDE[encoding.output_format]
    if max(image.size) > most:
        raise ParameterRefused(
            "output_format", f"{encoding.output_format} has at most {most} pixels a side; the picture is {_size(image)}"
        )
    quality = DEFAULT_QUALITY if encoding.quality is None else encoding.quality
    out = BytesIO()
    match encoding.output_format:
        case "png":
            _without_metadata(image).save(out, "PNG")
        case "jpeg":
            # Chroma at half resolution shows at high quality, and is what makes low quality small.
            _opaque(image).save(out, "JPEG", quality=quality, subsampling=2 if quality < _SUBSAMPLING_BELOW else 0)
        case "webp":
            _without_metadata(image).save(out, "WEBP", quality=quality, method=4)
    return out.getvalue()


def to_data_url(content: bytes, content_type: str) -> str:
    return f"data:{content_type};base64,{base64.b64encode(content).decode()}"


def is_data_url(text: str) -> bool:
    return text.lstrip()[:5].lower() == "data:"


def from_data_url(text: str, max_mib: float) -> bytes:
    """The bytes in a data URL, whatever type it claims; the length is judged first. Raises PictureRefused."""
    head = _HEAD.match(text)
    if head is None:
        raise PictureRefused("not a data URL; it begins with data:image/png;base64,")
    coded = text[head.end() :]
    encoded_in_base64 = head["rest"].lower().endswith(";base64")
    if len(coded) * (0.75 if encoded_in_base64 else 1) > (max_mib + 1 / 1024) * _MIB * 1.1:
        raise PictureRefused(f"the data URL is too long; at most {max_mib:g} MiB are taken")
    content = unquote_to_bytes(coded)
    if not encoded_in_base64:
        return content
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except binascii.Error as exc:
        raise PictureRefused(f"the data URL is no valid base64: {exc}") from exc


def _without_metadata(image: Image.Image) -> Image.Image:
    """Pillow writes what it finds in `info`: profiles, comments, the place where a photograph was taken."""
    if not image.info:
        return image
    bare = image.copy()
    bare.info = {}
    return bare


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode not in ("RGBA", "LA"):
        return _without_metadata(image if image.mode in ("RGB", "L") else image.convert("RGB"))
    whole = image.convert("RGBA")
    white = Image.new("RGBA", whole.size, "white")
    return Image.alpha_composite(white, whole).convert("RGB" if image.mode == "RGBA" else "L")


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
