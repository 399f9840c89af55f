"""Files of pictures for tests, made by Pillow where it can and by hand where it cannot."""

import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def coloured(width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    """A picture whose every pixel differs from its neighbours, and which no flip or turn leaves alone."""
    image = Image.new("RGB", (width, height))
    image.putdata([((x * 9) % 256, (y * 13) % 256, (x * y) % 256) for y in range(height) for x in range(width)])
    return image.convert(mode)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return SIGNATURE + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png_of(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG of raw rows, each beginning with its filter byte; `extra` chunks stand before the pixels."""
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    return png_header(width, height, depth, colour) + extra + pixels + png_chunk(b"IEND", b"")


def zeros_compressed(mib: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(1024 * 1024)) for _ in range(mib)), packer.flush()])
