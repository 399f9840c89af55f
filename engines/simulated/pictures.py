"""Pictures whose pixels tell whose they are: prompt, seed, request and source stand in the first ten.

Only lossless formats keep the mark, and only at the size it was drawn in.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

from PIL import Image

from engines.pictures import encoding
from engines.pictures.encoding import OutputFormat

_MAGIC = b"SIM1"
_DIGEST_BYTES = 6
_SEED_BYTES = 8
_MARK_BYTES = len(_MAGIC) + 3 * _DIGEST_BYTES + _SEED_BYTES
MARK_PIXELS = _MARK_BYTES // 3
_GREY = 128


def digest(content: str | bytes) -> str:
    """What a mark holds of a prompt, a request id or an uploaded file: twelve hexadecimal digits."""
    raw = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(raw).hexdigest()[: 2 * _DIGEST_BYTES]


def seen(content: bytes) -> str:
    """The word that stands in a prompt for an uploaded picture, so that the answer depends on it."""
    return f"[picture:{digest(content)}]"


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose picture it is; every text is a `digest`. `source` is of the uploaded picture, or of nothing."""

    prompt: str
    seed: int
    request: str
    source: str = digest(b"")


def read_mark(content: bytes) -> Mark | None:
    """The mark in an encoded picture, or None where it has none."""
    with Image.open(io.BytesIO(content)) as picture:
        pixels = picture.convert("RGB").tobytes()[:_MARK_BYTES]
    if not pixels.startswith(_MAGIC):
        return None
    parts = [pixels[n : n + _DIGEST_BYTES].hex() for n in range(len(_MAGIC), _MARK_BYTES - _SEED_BYTES, _DIGEST_BYTES)]
    return Mark(parts[0], int.from_bytes(pixels[-_SEED_BYTES:], "big"), parts[1], parts[2])


def draw(mark: Mark, size: tuple[int, int], done: float = 1.0, source: Image.Image | None = None) -> Image.Image:
    """One colour that follows from prompt and seed, or the source; grey where `done` is 0. At least ten pixels."""
    if source is None:
        hue = hashlib.sha256(f"{mark.prompt}{mark.seed}".encode()).digest()
        colour = tuple(round(_GREY + (part - _GREY) * done) for part in hue[:3])
        picture = Image.new("RGB", size, colour)
    else:
        picture = source.convert("RGB").resize(size)
    pixels = bytearray(picture.tobytes())
    pixels[:_MARK_BYTES] = _packed(mark)
    return Image.frombytes("RGB", size, bytes(pixels))


def encode(picture: Image.Image, output_format: OutputFormat, quality: int | None) -> bytes:
    """PNG, JPEG or WebP, which is lossless unless a quality is asked for."""
    buffer = io.BytesIO()
    if output_format == "png":
        picture.save(buffer, "PNG", compress_level=1)
    elif output_format == "webp" and quality is None:
        picture.save(buffer, "WEBP", lossless=True)
    else:
        return encoding.encode(picture, encoding.Encoding(output_format, quality))
    return buffer.getvalue()


def _packed(mark: Mark) -> bytes:
    digests = b"".join(bytes.fromhex(part) for part in (mark.prompt, mark.request, mark.source))
    return _MAGIC + digests + mark.seed.to_bytes(_SEED_BYTES, "big")
