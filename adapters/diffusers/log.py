"""Reads the engine's start-up log for people: how far it has come, and why it failed. For display only."""

import re
from collections.abc import Sequence

from adapters.vllm import log as vllm_log

_STARTING = "starting the engine"

# In the order in which they are printed; the last one seen counts.
_PHASES = (
    ("Loading pipeline", "loading weights"),
    ("Serving ", "ready"),
)
_CANNOT = re.compile(r"^ERROR \S+ \S+ \w+: (?:cannot start: )?(cannot .+)$")
_MAX_CHARS = 500


def cold_phase(log_lines: Sequence[str]) -> str:
    """The phase of a start in words; lines oldest first."""
    for line in reversed(log_lines):
        for marker, phase in reversed(_PHASES):
            if f": {marker}" in line:
                return phase
    return _STARTING


def failure(log_lines: Sequence[str]) -> str:
    """The cause of a failed start; lines oldest first. Never empty."""
    for line in reversed(log_lines):
        if match := _CANNOT.match(line.strip()):
            return match[1][:_MAX_CHARS]
    return vllm_log.failure(log_lines)
