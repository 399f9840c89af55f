"""Pictures that a test uploads: good ones, and everything that can be wrong with one."""

import base64
import functools
import http.server
import io
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image


def png(size: tuple[int, int] = (16, 16), colour: str = "red") -> bytes:
    """A plain picture."""
    return saved(Image.new("RGB", size, colour), "PNG")


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def data_url(content: bytes, content_type: str = "image/png") -> str:
    return f"data:{content_type};base64,{base64.b64encode(content).decode()}"


def bomb() -> bytes:
    """A few bytes that claim to be 50,000 pixels a side."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def sideways() -> bytes:
    """A JPEG of 30 by 10 pixels whose EXIF says that it is to be turned: 10 by 30 for whoever looks at it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.new("RGB", (30, 10), "blue"), "JPEG", exif=exif)


def odd_pictures() -> dict[str, bytes]:
    """Pictures that are fine for a person and trouble for an engine."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    return {
        "CMYK": saved(Image.new("CMYK", (8, 8)), "JPEG"),
        "16 bit": saved(Image.new("I;16", (8, 8), 40_000), "PNG"),
        "animated": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "sideways": sideways(),
    }


def bad_pictures() -> dict[str, bytes]:
    """What is refused."""
    return {
        "empty": b"",
        "text": b"no picture at all",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "truncated": png((64, 64))[:60],
        "bomb": bomb(),
    }


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@contextmanager
def web_server(folder: Path, **files: bytes) -> Iterator[str]:
    """The address of a web server on this machine that has these files, each with .png behind its name."""
    for name, content in files.items():
        (folder / f"{name}.png").write_bytes(content)
    serve = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
