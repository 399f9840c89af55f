"""One sentence per mistake in a configuration file: where it is and what to write instead.

Turns pydantic's findings into those sentences, with the known keys and the
descriptions taken from the model's own JSON Schema.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from controlplane.errors import ConfigError
from controlplane.settings.document import Document, Location
from controlplane.settings.suggestions import did_you_mean, listed

Schema = Mapping[str, Any]

_SHOWN_CHARACTERS = 60
_SECRET_PARTS = frozenset({"api_keys", "env"})
_KEY_ITSELF = "[key]"
_FOLLOWS_ANOTHER = "default_factory_not_called"
_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text in double quotes",
    "tuple_type": "a list, in [ ]",
    "list_type": "a list, in [ ]",
    "dict_type": "an object, in { }",
    "model_type": "an object, in { }",
    "model_attributes_type": "an object, in { }",
    "path_type": "a path, as text",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("gt", "be more than {}"),
    "greater_than_equal": ("ge", "be at least {}"),
    "less_than": ("lt", "be less than {}"),
    "less_than_equal": ("le", "be at most {}"),
    "string_too_long": ("max_length", "have at most {} characters"),
    "string_too_short": ("min_length", "have at least {} character(s)"),
    "too_short": ("min_length", "have at least {} item(s)"),
    "too_long": ("max_length", "have at most {} items"),
}
VRAM_REMEDY = (
    "write the MiB one replica needs in all: the size of the weights, plus its cache, plus about 1000 for the engine "
    "(a GPU's context, code and buffers)"
)
_WHEN_MISSING = {
    "vram_required_mb": VRAM_REMEDY,
    "model_id": "write the name callers will use",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: in which file, at which place, and the sentence about it."""

    file: Path
    place: str
    text: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"{self.file}, line {self.line}" if self.line else f"{self.file}"
        return f"{where}: {self.place}: {self.text}" if self.place else f"{where}: {self.text}"


def config_error(problems: Iterable[Problem]) -> ConfigError:
    """All problems as one error, one line each."""
    lines = [str(problem) for problem in problems]
    head = "the configuration has a mistake" if len(lines) == 1 else f"the configuration has {len(lines)} mistakes"
    return ConfigError("\n  ".join([f"{head}:", *lines]))


def place(location: Location) -> str:
    """`("models", 0, "priority")` as `models[0].priority`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def problems_of(error: ValidationError, file: Path, document: Document, model: type[BaseModel]) -> Iterator[Problem]:
    """The findings of one validation as problems, in the order of the file."""
    schema = _schema(model)
    for finding in error.errors(include_url=False):
        if finding["type"] == _FOLLOWS_ANOTHER:
            continue
        location = tuple(part for part in finding["loc"] if part != _KEY_ITSELF)
        text = _sentence(finding, schema)
        yield Problem(file, place(location), text, document.line(location))


@cache
def _schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema()


def _sentence(finding: Mapping[str, Any], schema: Schema) -> str:
    kind, location = finding["type"], finding["loc"]
    context = finding.get("ctx", {})
    part = _at(schema, location)
    match kind:
        case "extra_forbidden":
            return _unknown_key(str(location[-1]), _known_keys(_at(schema, location[:-1])))
        case "missing":
            return _missing(str(location[-1]), part)
        case "value_error":
            return str(context["error"])
        case "enum" | "literal_error":
            return _unknown_word(finding["input"], _words(part))
        case "string_pattern_mismatch":
            return f"{_shown(finding)} is no name; use letters, digits and . _ - /, with a letter or digit first"
    return _out_of_bounds(finding) or f"must be {_wanted(kind, finding['msg'])}, found {_shown(finding)}"


def _out_of_bounds(finding: Mapping[str, Any]) -> str | None:
    if finding["type"] not in _BOUNDS:
        return None
    key, text = _BOUNDS[finding["type"]]
    limit = finding["ctx"][key]
    return f"must {text.format(limit)}, found {_shown(finding)}"


def _wanted(kind: str, message: str) -> str:
    return _WANTED.get(kind) or message.removeprefix("Input should be ")


def _missing(key: str, part: Schema) -> str:
    remedy = _WHEN_MISSING.get(key) or _choices(part)
    return f"is missing; {remedy}" if remedy else "is missing"


def _choices(part: Schema) -> str:
    words = _words(part)
    return f"write {' or '.join(listed([word]) for word in words)}" if words else ""


def _unknown_key(key: str, known: list[str]) -> str:
    close = did_you_mean(key, known)
    if close:
        return f'unknown key; did you mean "{close}"?'
    return f"unknown key; known here: {listed(known)}"


def _unknown_word(found: Any, words: list[str]) -> str:
    close = did_you_mean(found, words) if isinstance(found, str) else None
    suggestion = f'; did you mean "{close}"?' if close else ""
    return f"must be one of {listed(words)}, found {_literal(found)}{suggestion}"


def _shown(finding: Mapping[str, Any]) -> str:
    """What was found, unless it could be a secret."""
    if _SECRET_PARTS & set(finding["loc"]):
        return "something else"
    return _literal(finding["input"])


def _literal(value: Any) -> str:
    match value:
        case None | True | False:
            return {None: "null", True: "true", False: "false"}[value]
        case dict():
            return "an object"
        case list() | tuple():
            return "a list"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _at(schema: Schema, location: Location) -> Schema:
    """The part of a JSON Schema that describes the location; empty when none does."""
    part = _resolved(schema, schema)
    for step in location:
        below = part.get("items") if isinstance(step, int) else part.get("properties", {}).get(step)
        below = below if isinstance(below, Mapping) else part.get("additionalProperties")
        if not isinstance(below, Mapping):
            return {}
        part = _resolved(below, schema)
    return part


def _resolved(part: Schema, root: Schema) -> Schema:
    """Follow references, and of alternatives the one that says most."""
    if "$ref" in part:
        return _resolved(root["$defs"][part["$ref"].rpartition("/")[2]], root)
    options = [_resolved(option, root) for option in part.get("anyOf", ()) if option.get("type") != "null"]
    return max(options, key=len) if options else part


def _known_keys(part: Schema) -> list[str]:
    return list(part.get("properties", {}))


def _words(part: Schema) -> list[str]:
    words = part.get("enum") or part.get("items", {}).get("enum") or []
    return [str(word) for word in words]
