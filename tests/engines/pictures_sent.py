"""Pictures for the server's tests: as a browser or a stranger would send them, and read back from an answer."""

import base64
import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def png(image: Image.Image) -> bytes:
    return encoded(image, "PNG")


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def flat(colour: Any = RED, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def received(answer: dict[str, Any], index: int = 0) -> Image.Image:
    """A picture of an answer, decoded."""
    image = Image.open(BytesIO(base64.b64decode(answer["data"][index]["b64_json"])))
    image.load()
    return image


def bomb(side: int = 60_000) -> bytes:
    """A PNG of a few hundred bytes whose header claims billions of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 9)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def overwritten() -> bytes:
    """A PNG with a sound header, whose pixels were written over."""
    content = png(Image.effect_noise((64, 64), 90))
    return content[:1000] + b"\xff" * (len(content) - 1000)


def turned() -> bytes:
    """A JPEG 32 wide and 64 high that says it is to be shown turned by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(flat(size=(32, 64)), "JPEG", exif=exif.tobytes())


def animated() -> bytes:
    """A GIF whose first frame is red."""
    return encoded(flat(), "GIF", save_all=True, append_images=[flat(BLUE)])
