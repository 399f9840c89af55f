"""The script of a simulated engine: what it takes to load, how fast it answers, and what goes wrong when.

Frozen and validated once; a key that does not exist is an error with a suggestion. Knows nothing of HTTP.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import orjson

T = TypeVar("T")


class ScriptError(ValueError):
    """The script is wrong; the message names the place and what is accepted there."""


def _number(default: float, minimum: float = 0.0) -> float:
    return field(default=default, metadata={"types": (int, float), "minimum": minimum, "says": "a number"})


def _integer(default: int, minimum: int = 0) -> int:
    return field(default=default, metadata={"types": (int,), "minimum": minimum, "says": "a whole number"})


def _optional_integer(minimum: int) -> int | None:
    metadata = {"types": (int, type(None)), "minimum": minimum, "says": "a whole number or null"}
    return field(default=None, metadata=metadata)


def _flag(default: bool) -> bool:
    return field(default=default, metadata={"types": (bool,), "says": "true or false"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFault:
    """Strikes a generation that has sent `token` tokens: the `request`-th one (from 1), or every one.

    crash: SIGKILL of this process. hang: no generation moves any more, metrics freeze, `/health` stays 200.
    abort: ends with `finish_reason` "abort". error: 500, or an error event in a stream.
    """

    kind: Literal["crash", "hang", "abort", "error"]
    token: int = _integer(0)
    request: int | None = _optional_integer(minimum=1)
    only_first_start: bool = _flag(default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """Prints vLLM's fatal line about free memory and exits with 1 before anything is allocated."""

    kind: Literal["out_of_memory"]
    only_first_start: bool = _flag(default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """Exits with `code`, `seconds` after the start, whether loaded by then or not."""

    kind: Literal["exit"]
    code: int = _integer(1)
    seconds: float = _number(0.0)
    only_first_start: bool = _flag(default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowFree:
    """Takes no notice of SIGTERM for `seconds`, and holds its memory all that time."""

    kind: Literal["slow_free"]
    seconds: float = _number(1.0)
    only_first_start: bool = _flag(default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftChild:
    """A child process holds `memory_mib`, ignores SIGTERM and outlives its parent (for 300 s at most).

    It stays in the process group unless `new_session` is true.
    """

    kind: Literal["left_child"]
    memory_mib: int = _integer(16)
    new_session: bool = _flag(default=False)
    only_first_start: bool = _flag(default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseSleep:
    """`/sleep` answers 200 and frees nothing."""

    kind: Literal["false_sleep"]
    only_first_start: bool = _flag(default=False)


Fault = TokenFault | OutOfMemory | Exit | SlowFree | LeftChild | FalseSleep
_FAULTS: dict[str, type[Fault]] = {
    "crash": TokenFault,
    "hang": TokenFault,
    "abort": TokenFault,
    "error": TokenFault,
    "out_of_memory": OutOfMemory,
    "exit": Exit,
    "slow_free": SlowFree,
    "left_child": LeftChild,
    "false_sleep": FalseSleep,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Everything that a simulated engine does. The defaults load at once and answer as fast as they can."""

    load_seconds: float = _number(0.0)
    memory_mib: int = _integer(0)  # weights
    kv_cache_mib: int = _integer(0)
    asleep_mib: int = _integer(0)  # what an honest sleep leaves allocated
    wake_seconds: float = _number(0.0)
    prefill_seconds: float = _number(0.0)
    tokens_per_second: float = _number(0.0)  # of each stream; 0 is without any pause
    steps_per_second: float = _number(0.0)  # the same for pictures, whose denoising steps count as tokens
    answer_tokens: int = _integer(16, minimum=1)  # the length of an answer to a request without a limit
    max_num_seqs: int = _integer(128, minimum=1)
    max_num_queued_reqs: int | None = _optional_integer(minimum=1)  # running and waiting; more is a 503
    max_model_len: int = _integer(32768, minimum=2)
    takes_images: bool = _flag(default=False)  # in chats
    embedding_dimensions: int = _integer(16, minimum=1)
    keep_alive_seconds: float = _number(5.0, minimum=0.01)
    shutdown_timeout_seconds: float = _number(0.0)  # 0: SIGTERM aborts; more: running requests may finish
    faults: tuple[Fault, ...] = ()

    def at_start(self, start: int) -> Script:
        """The script of the `start`-th start (from 1): later ones leave out what is for the first only."""
        if start == 1:
            return self
        return replace(self, faults=tuple(fault for fault in self.faults if not fault.only_first_start))

    def first(self, kind: type[T]) -> T | None:
        """The first fault of this class."""
        return next((fault for fault in self.faults if isinstance(fault, kind)), None)

    @property
    def token_faults(self) -> tuple[TokenFault, ...]:
        return tuple(fault for fault in self.faults if isinstance(fault, TokenFault))


def parse_script(source: str) -> Script:
    """A script from JSON text (it starts with "{") or from the file of that name. Raises `ScriptError`."""
    name = "--script"
    text: str | bytes = source
    if not source.lstrip().startswith("{"):
        name = source
        try:
            text = Path(source).read_bytes()
        except OSError as exc:
            raise ScriptError(f"cannot read the script {source}: {exc.strerror}") from exc
    try:
        raw = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise ScriptError(f"{name} is not JSON: {exc}") from exc
    plain = _checked(Script, raw, name)
    faults = plain.get("faults", [])
    if not isinstance(faults, list):
        raise ScriptError(f"{name}: faults must be a list")
    plain["faults"] = tuple(_fault(fault, f"{name}: faults[{n}]") for n, fault in enumerate(faults))
    return Script(**plain)


def _fault(raw: object, where: str) -> Fault:
    kind = raw.get("kind") if isinstance(raw, Mapping) else None
    if not isinstance(kind, str) or kind not in _FAULTS:
        raise ScriptError(f"{where}.kind must be one of {', '.join(_FAULTS)}; it is {kind!r}")
    fault = _FAULTS[kind]
    return fault(**_checked(fault, raw, where))


def _checked(model: type[Any], raw: object, where: str) -> dict[str, Any]:
    """`raw` as keyword arguments for `model`, every value of the field's type and range."""
    if not isinstance(raw, dict):
        raise ScriptError(f"{where} must be an object")
    known = {each.name: each for each in fields(model)}
    for key, value in raw.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ScriptError(f"{where}: unknown key {key}; {hint}")
        rule = known[key].metadata
        if rule:
            _check_value(value, rule, f"{where}: {key}")
    return dict(raw)


def _check_value(value: object, rule: Mapping[str, Any], where: str) -> None:
    right_type = isinstance(value, rule["types"]) and (bool in rule["types"] or not isinstance(value, bool))
    if not right_type:
        raise ScriptError(f"{where} must be {rule['says']}; it is {value!r}")
    minimum = rule.get("minimum")
    if minimum is not None and isinstance(value, (int, float)) and not minimum <= value < float("inf"):
        raise ScriptError(f"{where} must be at least {minimum}; it is {value!r}")
