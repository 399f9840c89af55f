"""A JSON text as a value that still knows on which line each part stands.

Stricter than `json`: repeated keys, NaN and Infinity are errors, since each
would silently drop or bend what the author wrote.
"""

import json
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NoReturn

Location = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t\n\r]*")


class BadDocument(ValueError):
    """The text is no JSON document; the message names line and column."""


@dataclass(frozen=True, slots=True)
class Document:
    """`value` is the parsed text; `lines` maps each location to its line, counted from 1."""

    value: Any
    lines: dict[Location, int] = field(default_factory=dict)

    def line(self, location: Location) -> int | None:
        """The line of the location, or of the nearest part around it that exists."""
        for length in range(len(location), -1, -1):
            found = self.lines.get(location[:length])
            if found is not None:
                return found
        return None


def parse(text: str) -> Document:
    """Parse the text of one file. Raises BadDocument."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        return Document(value, _Lines(text).found)
    except json.JSONDecodeError as exc:
        raise BadDocument(f"line {exc.lineno}, column {exc.colno}: {exc.msg}{_hint(text, exc.pos)}") from exc
    except RecursionError as exc:
        raise BadDocument("nested too deeply") from exc


def _refuse_constant(name: str) -> NoReturn:
    raise BadDocument(f"{name} is not a number in JSON; write a finite number")


def _hint(text: str, at: int) -> str:
    rest, before = text[at : at + 2], text[:at].rstrip()
    if not text.strip():
        return "; the file is empty, write at least {}"
    if rest[:1] == "#" or rest == "//":
        return "; JSON has no comments, remove it"
    if rest[:1] in ("}", "]") or before.endswith((",}", ",]")):
        return "; remove the comma before it"
    if rest[:1] == "'":
        return "; use double quotes"
    return ""


class _Lines:
    """Walks a text that `json` has accepted and notes where each part begins."""

    def __init__(self, text: str) -> None:
        self.found: dict[Location, int] = {}
        self._text = text
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._scalar = json.JSONDecoder().raw_decode
        self._walk(self._skip(0), ())

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        return match.end() if match else at

    def _note(self, location: Location, at: int) -> None:
        self.found.setdefault(location, bisect_right(self._starts, at))

    def _walk(self, at: int, location: Location) -> int:
        self._note(location, at)
        match self._text[at]:
            case "{":
                return self._object(self._skip(at + 1), location)
            case "[":
                return self._array(self._skip(at + 1), location)
        return self._scalar(self._text, at)[1]

    def _object(self, at: int, location: Location) -> int:
        while self._text[at] != "}":
            key, after = scanstring(self._text, at + 1)
            member = (*location, key)
            if member in self.found:
                line = bisect_right(self._starts, at)
                raise BadDocument(f'line {line}: the key "{key}" stands twice in one object; remove one')
            self._note(member, at)
            at = self._next(self._walk(self._skip(self._skip(after) + 1), member))
        return at + 1

    def _array(self, at: int, location: Location) -> int:
        index = 0
        while self._text[at] != "]":
            at = self._next(self._walk(at, (*location, index)))
            index += 1
        return at + 1

    def _next(self, at: int) -> int:
        """Past white space and at most one comma."""
        at = self._skip(at)
        return self._skip(at + 1) if self._text[at] == "," else at
