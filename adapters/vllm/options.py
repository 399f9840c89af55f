"""Reads the options of a model's entry that are ours; the rest are flags of vLLM's."""

from collections.abc import Mapping

from adapters.errors import LaunchError

Option = str | int | float | bool


def positive(options: Mapping[str, Option], name: str) -> int | None:
    """A whole number above 0, None where the option is not given. Raises `LaunchError`."""
    value = options.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise LaunchError(f"the option {name} must be a whole number above 0, not {value!r}")
    return value


def seconds(options: Mapping[str, Option], name: str, default: float) -> float:
    """A number of seconds above 0. Raises `LaunchError`."""
    value = options.get(name, default)
    if isinstance(value, bool | str) or not value > 0:
        raise LaunchError(f"the option {name} must be a number of seconds above 0, not {value!r}")
    return float(value)
