"""One replica's log file: engines append to it themselves, so it goes on while the control plane is away.

Rotation therefore copies and truncates; lines written between the two are lost.
Tail reads across rotations of one run, never into the run before.
"""

import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

_TAIL_BYTES = 128 * 1024
_LINE_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class LogLimits:
    """A log is rotated beyond `max_bytes`; `keep` older parts stay. Looked at every `check_seconds`."""

    max_bytes: int = 16 * 1024 * 1024
    keep: int = 3
    check_seconds: float = 5.0


class ReplicaLog:
    """The log at `path`, older parts of the same run at `path.1` and on, the run before at `path.previous`."""

    def __init__(self, path: Path, limits: LogLimits) -> None:
        self._path = path
        self._limits = limits

    def open_new_run(self) -> int:
        """Put the last run aside and return a descriptor that appends to an empty log."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._path.replace(self._part("previous"))
        for number in range(1, self._limits.keep + 1):
            self._part(number).unlink(missing_ok=True)
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def rotate_if_large(self) -> None:
        """Keep the file below its limit, and every older part too, even if it grew far beyond meanwhile."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return
        if size <= self._limits.max_bytes:
            return
        for number in range(self._limits.keep, 1, -1):
            if (newer := self._part(number - 1)).exists():
                newer.replace(self._part(number))
        if self._limits.keep:
            self._copy_end(size, self._part(1))
        os.truncate(self._path, 0)

    def tail(self, lines: int) -> list[str]:
        """The last `lines` lines of this run, newest last; very long ones are cut."""
        last: deque[str] = deque(maxlen=max(lines, 0))
        for path in (self._path, *map(self._part, range(1, self._limits.keep + 1))):
            older = self._last_lines(path, lines - len(last))
            last.extendleft(reversed(older))
            if len(last) >= lines:
                break
        return list(last)

    def _part(self, name: int | str) -> Path:
        return self._path.with_name(f"{self._path.name}.{name}")

    def _copy_end(self, size: int, target: Path) -> None:
        with self._path.open("rb") as source, target.open("wb") as copy:
            offset = max(0, size - self._limits.max_bytes)
            while offset < size and (sent := os.sendfile(copy.fileno(), source.fileno(), offset, size - offset)):
                offset += sent

    def _last_lines(self, path: Path, lines: int) -> list[str]:
        if lines <= 0:
            return []
        try:
            with path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size - _TAIL_BYTES))
                read = log.read(_TAIL_BYTES)
        except FileNotFoundError:
            return []
        # Progress bars redraw one line with carriage returns: what stood there last is the line.
        found = [line.rpartition("\r")[2] for line in read.decode(errors="replace").replace("\r\n", "\n").split("\n")]
        return [line[:_LINE_CHARACTERS] for line in found if line.strip()][-lines:]
