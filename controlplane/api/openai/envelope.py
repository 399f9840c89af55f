"""Reads what admission needs from a call: one parse of the body, a few headers, nothing else.

Fields that only the engine understands are not looked at; it judges them.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from controlplane.loop import rejections

# OpenAI's service tiers as priorities; what is not named here leaves the model's own.
_TIERS = {"priority": 80, "fast": 80, "scale": 65, "flex": 20}
_MAX_DEADLINE_SECONDS = 7 * 24 * 3600.0


class Envelope(NamedTuple):
    """The parts of a call that decide where it goes; `raw` is passed on untouched."""

    raw: bytes
    fields: Mapping[str, Any]
    model: str
    stream: bool
    priority: int | None
    deadline_seconds: float | None

    def body_for(self, served_name: str | None) -> bytes:
        """The body for the engine; written anew only when it knows the model by another name.

        Raises RequestRejected when it cannot be written anew.
        """
        return self.raw if served_name is None else _written({**self.fields, "model": served_name})

    def with_fields(self, fields: Mapping[str, Any]) -> "Envelope":
        """The same call with another body. Raises RequestRejected when it cannot be written."""
        return self._replace(fields=fields, raw=_written(fields))


def _written(fields: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError as exc:
        # Its writer gives up at a lesser depth than its reader.
        message = (
            "the body is nested too deep to be written anew; flatten it (a model named by its id needs no rewriting)"
        )
        raise rejections.invalid(message, None, "invalid_json") from exc


def read_envelope(headers: Mapping[bytes, bytes], body: bytes, default_model: str | None = None) -> Envelope:
    """`default_model` is for calls that name none. Raises RequestRejected naming the field."""
    fields = read_object(body)
    model = fields.get("model")
    if model is None:
        model = default_model
    if not isinstance(model, str) or not model:
        raise rejections.invalid(
            "model must be a text: the id or alias of a model (GET /v1/models lists them), or a type such as text2text",
            "model",
            "missing_model" if model is None else "invalid_type",
        )
    stream = fields.get("stream", False)
    if stream is not None and not isinstance(stream, bool):
        raise rejections.invalid(f"stream must be true or false, not {_shown(stream)}", "stream", "invalid_type")
    return Envelope(body, fields, model, bool(stream), read_priority(headers, fields), read_deadline(headers))


def read_object(body: bytes) -> Mapping[str, Any]:
    """The JSON object that a body holds. Raises RequestRejected."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        where = f"line {exc.lineno}, column {exc.colno}"
        raise rejections.invalid(f"the body is not JSON: {exc.msg} at {where}", None, "invalid_json") from exc
    if not isinstance(fields, dict):
        raise rejections.invalid(f"the body must be a JSON object, not {_shown(fields)}", None, "invalid_json")
    return fields


def read_priority(headers: Mapping[bytes, bytes], fields: Mapping[str, Any]) -> int | None:
    """The header goes before the body's own field, and that before the service tier. Raises RequestRejected."""
    header = headers.get(b"x-priority")
    if header is not None:
        return _valid_priority(header.decode("latin-1"), _integer(header), "X-Priority")
    if (named := fields.get("priority")) is not None:
        exact = named if isinstance(named, int) and not isinstance(named, bool) else None
        return _valid_priority(named, exact, "priority")
    tier = fields.get("service_tier")
    return _TIERS.get(tier) if isinstance(tier, str) else None


def _valid_priority(given: object, value: int | None, param: str) -> int:
    if value is None or not 0 <= value <= 100:
        message = f"{param} must be a whole number from 0 to 100 (higher goes first), not {_shown(given)}"
        raise rejections.invalid(message, param, "invalid_priority")
    return value


def _integer(text: bytes) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def read_deadline(headers: Mapping[bytes, bytes], named: object = None) -> float | None:
    """Seconds from the header, else what the body named. Raises RequestRejected."""
    header = headers.get(b"x-deadline-seconds")
    if header is None:
        return None if named is None else _valid_deadline(named, _seconds(named), "deadline_seconds")
    given = header.decode("latin-1")
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    return _valid_deadline(given, seconds, "X-Deadline-Seconds")


def _seconds(named: object) -> float:
    return float(named) if isinstance(named, int | float) and not isinstance(named, bool) else math.nan


def _valid_deadline(given: object, seconds: float, param: str) -> float:
    if not 0 < seconds <= _MAX_DEADLINE_SECONDS:
        message = (
            f"{param} must be a number of seconds above 0 and at most {_MAX_DEADLINE_SECONDS:.0f}, not {_shown(given)}"
        )
        raise rejections.invalid(message, param, "invalid_deadline")
    return seconds


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
