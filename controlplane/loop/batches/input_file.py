"""The input of a batch: read a part at a time, each line checked for what OpenAI checks before a batch begins.

What a line asks of its model is judged when the line is taken. Reads the disk: call it beside the event loop.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from controlplane.errors import StoreFailure
from controlplane.store.batch_records import LineProblem

MAX_LINES = 50_000
MAX_BYTES = 200 * 1024 * 1024
_MAX_PROBLEMS = 100
_LONGEST_ID = 512


class InputLine(NamedTuple):
    """One request of a batch; `body` is JSON."""

    custom_id: str
    body: bytes


class Part(NamedTuple):
    """Lines of a file that follow each other, without the blank ones; `end` is where the next part begins."""

    lines: tuple[bytes, ...]
    end: int


class Survey(NamedTuple):
    """How many lines a file has, and what is wrong with it."""

    total: int
    problems: tuple[LineProblem, ...]


class _Bad(Exception):
    """A line is not as it must be."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


def read_part(path: Path, begin: int, max_lines: int, max_bytes: int) -> Part:
    """The next lines, as many as these limits allow, and one at least where there is one. Raises StoreFailure."""
    lines: list[bytes] = []
    try:
        with path.open("rb") as file:
            file.seek(begin)
            while len(lines) < max_lines and file.tell() - begin < max_bytes and (line := file.readline()):
                if line.strip():
                    lines.append(line)
            return Part(tuple(lines), file.tell())
    except OSError as exc:
        raise _unreadable(exc) from exc


def survey(path: Path, endpoint: str, max_line_bytes: int) -> Survey:
    """A look at every line, one at a time. Raises StoreFailure."""
    if _size(path) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES // 2**20} MiB; split it into several batches"
        return Survey(0, (LineProblem("file_too_large", message),))
    looking = _Looking(endpoint)
    for number, line in _numbered(path, max_line_bytes):
        looking.look(number, line)
        if len(looking.problems) >= _MAX_PROBLEMS or looking.total > MAX_LINES:
            break
    if looking.total > MAX_LINES:
        message = f"the file has more than {MAX_LINES} lines; split it into several batches"
        looking.problems.append(LineProblem("too_many_lines", message))
    if not looking.total and not looking.problems:
        looking.problems.append(LineProblem("empty_file", "the file holds no requests"))
    return Survey(looking.total, tuple(looking.problems))


def read_line(line: bytes, endpoint: str) -> InputLine:
    """Of a file that was surveyed. Raises ValueError for a line that would not have passed."""
    try:
        return _checked(line, endpoint)
    except _Bad as exc:
        raise ValueError(str(exc)) from exc


@dataclass(slots=True)
class _Looking:
    """What was seen of a file so far."""

    endpoint: str
    total: int = 0
    problems: list[LineProblem] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def look(self, number: int, line: bytes | None) -> None:
        """None stands for a line that is too long."""
        self.total += 1
        try:
            if line is None:
                raise _Bad("line_too_long", "this line is longer than server.max_body_mib")
            custom_id = _checked(line, self.endpoint).custom_id
            if custom_id in self.seen:
                message = f"the custom_id {custom_id[:80]!r} was used for another line; each line needs one of its own"
                raise _Bad("duplicate_custom_id", message, "custom_id")
            self.seen.add(custom_id)
        except _Bad as exc:
            self.problems.append(LineProblem(exc.code, str(exc), number, exc.param))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as exc:
        raise _unreadable(exc) from exc


def _unreadable(exc: OSError) -> StoreFailure:
    return StoreFailure(f"cannot read the input of the batch: {exc.strerror or exc}")


def _numbered(path: Path, max_line_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Every line that is not blank, with its number; None for one that is too long."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(max_line_bytes + 1):
                number += 1
                too_long = len(line) > max_line_bytes
                while too_long and line and not line.endswith(b"\n"):
                    line = file.readline(max_line_bytes)
                if too_long or line.strip():
                    yield number, None if too_long else line
    except OSError as exc:
        raise _unreadable(exc) from exc


def _checked(line: bytes, endpoint: str) -> InputLine:
    fields = _object(line)
    custom_id = _text(fields, "custom_id")
    if len(custom_id) > _LONGEST_ID or "\0" in custom_id:
        message = f"custom_id must be a text of at most {_LONGEST_ID} characters, none of them zero"
        raise _Bad("invalid_custom_id", message, "custom_id")
    if _text(fields, "method") != "POST":
        raise _Bad("invalid_method", "method must be POST", "method")
    url = _text(fields, "url")
    if url != endpoint:
        message = f"the url {url[:80]!r} is not the endpoint of this batch, which is {endpoint}"
        raise _Bad("mismatched_url", message, "url")
    body = fields.get("body")
    if not isinstance(body, dict):
        code = "missing_required_parameter" if body is None else "invalid_type"
        raise _Bad(code, "body must be the object that would be sent to the endpoint", "body")
    try:
        return InputLine(custom_id, orjson.dumps(body))
    except orjson.JSONEncodeError as exc:
        raise _Bad("invalid_json_line", f"the body cannot be written anew: {exc}", "body") from exc


def _object(line: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise _Bad("invalid_json_line", f"this line is not parseable as JSON: {exc.msg}") from exc
    if not isinstance(fields, dict):
        raise _Bad("invalid_json_line", "this line is not a JSON object")
    return fields


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None or value == "":
        raise _Bad("missing_required_parameter", f"the line has no {name}", name)
    if not isinstance(value, str):
        raise _Bad("invalid_type", f"{name} must be a text", name)
    return value
