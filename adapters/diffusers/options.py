"""From a model's entry to the engine's own options: what may be set, under which names, and what follows from where."""

import difflib
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from adapters.base import ModelLaunch, Target
from adapters.errors import LaunchError
from engines.diffusers.options import EngineOptions

# Read by the launch; the rest are the engine's.
OURS = frozenset({"environment", "overhead_mib", "ready_timeout_seconds", "stop_grace_seconds", "linger_seconds"})
_REFUSED = {
    "device": "it follows from the device that the model is placed on",
    "memory_mib": "set vram_required_mb",
    "max_batch_size": "set max_batch_size beside parameters",
}
# Given as JSON text where an option must be a plain value.
_STRUCTURES = frozenset({"loras", "quantization"})
_LEAST_KEPT_MIB, _MOST_KEPT_MIB = 16, 256


def engine_options(model: ModelLaunch, target: Target, threads: int) -> EngineOptions:
    """The options of one engine process; `threads` for a host without a GPU. Raises `LaunchError`."""
    given = {name: _value(name, value) for name, value in model.options.items() if name not in OURS}
    check_names(given)
    on_host = target.kind == "host"
    placed: dict[str, Any] = {
        "device": "cpu" if on_host else "cuda",
        "memory_mib": model.budget_mib,
        "max_batch_size": batch_rows(model),
    }
    if on_host:
        # Results that are kept take the same memory as weights and pictures under way.
        kept_mib = given.get("keep_results_mib", min(max(model.budget_mib // 16, _LEAST_KEPT_MIB), _MOST_KEPT_MIB))
        placed |= {"threads": threads, "keep_results_mib": kept_mib}
        placed["memory_mib"] = max(1, model.budget_mib - kept_mib) if isinstance(kept_mib, int) else model.budget_mib
    try:
        return EngineOptions.model_validate({**placed, **given})
    except ValidationError as exc:
        fault = exc.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise LaunchError(f"the option {place} is wrong: {_lower(fault['msg'])}") from exc


def batch_rows(model: ModelLaunch) -> int:
    """Most rows that are computed together."""
    return model.max_batch_size or model.max_concurrency


def check_names(given: Mapping[str, object]) -> None:
    """Raises `LaunchError` for the first option that the engine does not have."""
    known = sorted((set(EngineOptions.model_fields) | OURS) - set(_REFUSED))
    for name in given:
        if name in _REFUSED:
            raise LaunchError(f"the option {name} cannot be set: {_REFUSED[name]}")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise LaunchError(f"there is no option {name}; {hint}")


def _value(name: str, value: object) -> object:
    if name not in _STRUCTURES or not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as exc:
        raise LaunchError(f"the option {name} is not JSON: {exc}") from exc


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
