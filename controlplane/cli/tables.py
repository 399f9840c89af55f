"""Tables for people out of JSON objects: which columns, and how a value reads."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

Row = Mapping[str, Any]

_NOTHING = "-"
_SECONDS_OF = {"d": 86400, "h": 3600, "min": 60, "s": 1}


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its head, how its text follows from a row, and whether it is a number."""

    head: str
    text: Callable[[Row], str]
    number: bool = False


def key(name: str, head: str | None = None) -> Column:
    """A column that shows one key as it is."""
    return Column(head or name.replace("_", " "), lambda row: plain(row.get(name)))


def amount(name: str, head: str | None = None) -> Column:
    """A column of numbers, aligned right."""
    return Column(head or name.replace("_", " "), lambda row: plain(row.get(name)), number=True)


def table(columns: Iterable[Column], rows: Iterable[Row], *, title: str | None = None, empty: str = "none") -> Table:
    """The rows as a table; without any, a table that says so."""
    columns = tuple(columns)
    result = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        result.add_column(column.head, justify="right" if column.number else "left", overflow="fold")
    for row in rows:
        result.add_row(*(escape(column.text(row)) for column in columns))
    if not result.row_count and columns:
        result.add_row(empty, *([""] * (len(columns) - 1)))
    return result


def plain(value: object) -> str:
    """A JSON value as a person reads it."""
    match value:
        case None | "":
            return _NOTHING
        case True:
            return "yes"
        case False:
            return "no"
        case float():
            return f"{value:g}"
        case list() | tuple():
            return ", ".join(plain(item) for item in value) or _NOTHING
        case Mapping():
            return ", ".join(f"{name}={plain(item)}" for name, item in value.items()) or _NOTHING
    return str(value)


def duration(seconds: object) -> str:
    """Seconds as `3 h 12 min`, `1 min 15 s` or `0.4 s`: the two largest units."""
    if not isinstance(seconds, int | float):
        return _NOTHING
    if seconds < 10 and seconds % 1:
        return f"{seconds:.1f} s"
    parts, rest = [], int(seconds)
    for unit, length in _SECONDS_OF.items():
        count, rest = divmod(rest, length)
        parts += [f"{count} {unit}"] if count else []
    return " ".join(parts[:2]) or "0 s"
