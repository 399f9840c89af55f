"""Reads a multipart form by where its parts lie in the body, so that files are neither copied nor written anew.

What the parts mean is not its business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from controlplane.errors import RequestRejected
from controlplane.loop import rejections

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_PARTS = 128
_MAX_TEXT_BYTES = 1024 * 1024
_LARGE_BYTES = 256 * 1024


class Part(NamedTuple):
    """One part: its content is `raw[start:end]` of the form; an empty one lies at 0."""

    name: str
    is_file: bool
    start: int
    end: int


class Form(NamedTuple):
    """A whole form; `raw` is the body as it came."""

    raw: bytes
    boundary: bytes
    parts: tuple[Part, ...]

    def text(self, name: str) -> str | None:
        """The first field of this name that is no file. Raises RequestRejected when it is too long or not UTF-8."""
        part = next((each for each in self.parts if each.name == name and not each.is_file), None)
        if part is None:
            return None
        if part.end - part.start > _MAX_TEXT_BYTES:
            raise rejections.invalid(f"{name} is longer than {_MAX_TEXT_BYTES} bytes", name, "invalid_value")
        try:
            return self.raw[part.start : part.end].decode()
        except UnicodeDecodeError as exc:
            raise rejections.invalid(f"{name} is not UTF-8 text", name, "invalid_value") from exc

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        """Those of these fields that there are."""
        found = {name: self.text(name) for name in names}
        return {name: text for name, text in found.items() if text is not None}

    def file(self, name: str) -> bytes | None:
        """The content of the first file of this name."""
        part = next((each for each in self.parts if each.name == name and each.is_file), None)
        return None if part is None else self.raw[part.start : part.end]

    def with_texts(self, changes: Mapping[str, str]) -> bytes:
        """The body with these fields replaced where they stand, or put before the others."""
        pieces: list[bytes] = []
        done = 0
        standing = [part for part in self.parts if part.end and not part.is_file and part.name in changes]
        for part in standing:
            pieces += [self.raw[done : part.start], changes[part.name].encode()]
            done = part.end
        there = {part.name for part in standing}
        added = [self._field(name, text) for name, text in changes.items() if name not in there]
        return b"".join([*added, *pieces, self.raw[done:]])

    def _field(self, name: str, text: str) -> bytes:
        head = b'--%s\r\ncontent-disposition: form-data; name="%s"\r\n\r\n' % (self.boundary, name.encode())
        return head + text.encode() + b"\r\n"


def is_form(content_type: bytes) -> bool:
    return content_type[:19].lower() == b"multipart/form-data"


def boundary_of(content_type: bytes) -> bytes | None:
    return parse_options_header(content_type)[1].get(b"boundary")


def read_form(content_type: bytes, body: bytes) -> Form:
    """Raises RequestRejected."""
    boundary = boundary_of(content_type)
    if not boundary:
        raise _broken("the content type names no boundary")
    reading = _Reading()
    try:
        parser = MultipartParser(boundary, reading.callbacks())
        parser.write(body)
        parser.finalize()
    except (MultipartParseError, ValueError) as exc:
        raise _broken(str(exc)) from exc
    if not reading.ended:
        raise _broken("it ends before its last boundary")
    return Form(body, boundary, tuple(reading.parts))


async def read_form_aside(content_type: bytes, body: bytes) -> Form:
    """The same; a large form, which may have been made to take long, is read beside the event loop."""
    if len(body) <= _LARGE_BYTES:
        return read_form(content_type, body)
    return await asyncio.to_thread(read_form, content_type, body)


def _broken(why: str) -> RequestRejected:
    return rejections.invalid(f"the body is not a multipart form: {why}", None, "invalid_form")


class _Reading:
    """What the parser has told so far; the whole body is given at once, so its offsets are those of the body."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._header = b""
        self._headers: dict[bytes, bytes] = {}
        self._place = (0, 0)

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._value,
            "on_part_data": self._content,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= _MAX_PARTS:
            raise _broken(f"it has more than {_MAX_PARTS} parts")
        self._headers = {}
        self._place = (0, 0)

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header = data[start:end].lower()

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._headers[self._header] = data[start:end]

    def _content(self, _data: bytes, start: int, end: int) -> None:
        self._place = (self._place[0] or start, end)

    def _part_end(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition"))[1]
        if b"name" not in options:
            raise _broken("a part has no name")
        name = options[b"name"].decode("utf-8", "replace")
        self.parts.append(Part(name, b"filename" in options, *self._place))

    def _end(self) -> None:
        self.ended = True
