"""An upload as it comes over the wire, its one file written to disk piece by piece; the other fields are text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from controlplane.api.multipart import boundary_of, is_form
from controlplane.errors import RequestRejected
from controlplane.loop import rejections

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

    from controlplane.media.file_folder import Writing

MAX_BYTES = 512 * 1024 * 1024
_FILE = "file"
_PIECE_BYTES = 1024 * 1024
_MAX_PARTS = 16
_MAX_TEXT_BYTES = 1024
_LONGEST_NAME = 255


class Upload(NamedTuple):
    """The fields of a form, and the name its file had."""

    fields: dict[str, str]
    filename: str


async def read_upload(content_type: bytes, pieces: AsyncIterator[bytes], writing: Writing) -> Upload:
    """The content of the file goes to `writing`. Raises RequestRejected, StoreFailure."""
    boundary = boundary_of(content_type) if is_form(content_type) else None
    if not boundary:
        raise _broken("send multipart/form-data with the parts file and purpose")
    reading = _Reading(writing)
    parser = MultipartParser(boundary, reading.callbacks())
    async for piece in _gathered(pieces):
        await asyncio.to_thread(_fed, parser, piece)
    return reading.upload()


def _fed(parser: MultipartParser, piece: bytes) -> None:
    try:
        parser.write(piece)
    except (MultipartParseError, ValueError) as exc:
        raise _broken(str(exc)) from exc


async def _gathered(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """In pieces that are worth a thread's while. Raises RequestRejected when there are too many."""
    waiting, size, total = list[bytes](), 0, 0
    async for piece in pieces:
        waiting.append(piece)
        size, total = size + len(piece), total + len(piece)
        if total > MAX_BYTES:
            raise too_large()
        if size >= _PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


class _Reading:
    """What the parser has told so far."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._parts = 0
        self._header = b""
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._in_file = False
        self._texts: dict[str, bytes] = {}
        self._filename: str | None = None
        self._ended = False

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._part_begins,
            "on_part_data": self._content,
            "on_end": self._end,
        }

    def upload(self) -> Upload:
        """Raises RequestRejected when it is not whole."""
        if not self._ended:
            raise _broken("it ends before its last boundary")
        if self._filename is None:
            raise rejections.invalid("the form has no file", _FILE, "missing_field")
        try:
            return Upload({name: text.decode() for name, text in self._texts.items()}, self._filename)
        except UnicodeDecodeError as exc:
            raise _broken("a field is not UTF-8 text") from exc

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _broken(f"it has more than {_MAX_PARTS} parts")
        self._headers, self._header = {}, b""

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end].lower()

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._headers[self._header] = self._headers.get(self._header, b"") + data[start:end]

    def _header_end(self) -> None:
        self._header = b""

    def _part_begins(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition"))[1]
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = b"filename" in options
        if not self._in_file:
            self._texts.setdefault(self._name, b"")
        elif self._name != _FILE or self._filename is not None:
            message = f"a form has one upload, and its name is {_FILE}, not {self._name[:80]}"
            raise rejections.invalid(message, self._name[:80], "unknown_field")
        else:
            self._filename = options[b"filename"].decode("utf-8", "replace")[:_LONGEST_NAME].replace("\0", "")

    def _content(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._writing.write(data[start:end])
            return
        self._texts[self._name] += data[start:end]
        if len(self._texts[self._name]) > _MAX_TEXT_BYTES:
            raise rejections.invalid(f"{self._name[:80]} is too long", self._name[:80], "invalid_value")

    def _end(self) -> None:
        self._ended = True


def too_large() -> RequestRejected:
    message = f"a file may have {MAX_BYTES // 2**20} MiB; split it"
    return rejections.invalid(message, _FILE, "file_too_large", 413)


def _broken(why: str) -> RequestRejected:
    return rejections.invalid(f"the body is not a multipart form with a file: {why}", None, "invalid_form")
