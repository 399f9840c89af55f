"""Reads vLLM's start-up log for people: how far it has come, and why it failed.

For display only; whether a replica is ready or gone is learned from the process and the probe.
"""

import re
from collections.abc import Iterable, Sequence

_STARTING = "starting the engine"

# In the order in which they are printed; the last one seen counts.
_PHASES = (
    ("non-default args:", "reading the model's configuration"),
    ("Resolved architecture:", "starting the engine process"),
    ("Initializing a V1 LLM engine", "preparing the device"),
    ("Starting to load model", "loading weights"),
    ("Loading safetensors checkpoint shards:", "loading weights"),
    ("Loading pt checkpoint shards:", "loading weights"),
    ("Loading weights took", "weights loaded, preparing the KV cache"),
    ("Model loading took", "weights loaded, profiling memory"),
    ("Using cache directory:", "compiling"),
    ("torch.compile took", "compiled, profiling memory"),
    ("saved AOT compiled function", "compiled, profiling memory"),
    ("Encoder cache will be initialized", "profiling memory with the largest pictures"),
    ("Available KV cache memory:", "preparing the KV cache"),
    ("KV cache size:", "warming up"),
    ("Capturing CUDA graphs", "capturing CUDA graphs"),
    ("Graph capturing finished", "warming up"),
    ("init engine (profile", "starting the HTTP server"),
    ("Starting vLLM server on", "starting the HTTP server"),
    ("Application startup complete", "ready"),
)
_PERCENT = re.compile(r"(\d{1,3})%")

# Sentences of vLLM's own that name the cause best, wherever in the log they stand.
_FATAL = (
    "Free memory on device",
    "Available memory on node",
    "No available memory for the cache blocks",
    "To serve at least one request with the model's max seq len",
    "out of memory",
    "Cannot allocate memory",
    "No space left on device",
    "Address already in use",
    "error: unrecognized arguments",
    "error: argument",
)
# Exceptions that only tell that another process has failed.
_WRAPPERS = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "EngineDeadError",
    "Executor failed",
    "failed to be inspected. Please check the logs",
)
_NOISE = ("resource_tracker", "warnings.warn(")
_PREFIX = re.compile(
    r"^(?:\([\w-]+ pid=\d+\) )?(?:(?:ERROR|WARNING|INFO|CRITICAL|DEBUG) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?"
)
_EXCEPTION = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b(?::|$)")
_MODULES = re.compile(r"^(?:\w+\.)+(?=[A-Z])")
_COUNTED = re.compile(r"\d+ validation errors? for \w+$")
_SOURCE = re.compile(r"^(?:(?:\w+\.)*\w*Error: |[\w.]+: error: )")
_MAX_CHARS = 500


def cold_phase(log_lines: Sequence[str]) -> str:
    """The phase of a start in words; lines oldest first."""
    for line in reversed(log_lines):
        for marker, phase in reversed(_PHASES):
            if marker in line:
                return phase + _percent(line[line.rfind(marker) :])
    return _STARTING


def failure(log_lines: Sequence[str]) -> str:
    """The cause of a failed start; lines oldest first. Never empty."""
    lines = [line for line in map(_bare, log_lines) if line]
    causes = [_sentence(lines, place) for place, line in enumerate(lines) if _EXCEPTION.match(line)]
    fatal = _last(line for line in lines if any(mark in line for mark in _FATAL))
    root = _last(cause for cause in causes if not any(mark in cause for mark in _WRAPPERS))
    sentence = _SOURCE.sub("", fatal) or root or _last(causes) or _without_cause(lines)
    return sentence[:_MAX_CHARS]


def _without_cause(lines: Sequence[str]) -> str:
    """A process that was killed from outside says nothing: then it helps to know how far it had come."""
    last = _last(line for line in lines if not any(mark in line for mark in _NOISE))
    return f"its log ends with: {last}" if last else "it ended without a word in its log"


def _sentence(lines: Sequence[str], place: int) -> str:
    """The exception at `place` without its module; pydantic says on the line after it what was wrong."""
    line = _MODULES.sub("", lines[place])
    if _COUNTED.search(line) and place + 1 < len(lines):
        return lines[place + 1].removeprefix("Value error, ")
    return line


def _percent(text: str) -> str:
    found = _PERCENT.findall(text) if "shards:" in text else []
    return f", {found[-1]}%" if found else ""


def _bare(line: str) -> str:
    """The line without vLLM's prefix of process, level and place."""
    return _PREFIX.sub("", line.rstrip().rsplit("\r", 1)[-1], count=1).strip()


def _last(lines: Iterable[str]) -> str:
    found = ""
    for line in lines:
        found = line
    return found
