"""Runs one outside command to its end: output lines to a callback and a log file, cancellation kills its whole group.

For commands that finish (pip, converters, downloads). Engines are run by the process runtime, not here.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from controlplane.errors import RuntimeFailure

TAIL_LINES = 40
REASON_CHARACTERS = 1000
# Progress bars redraw with a carriage return and may never end a line.
_LINE_END = re.compile(rb"[\r\n]+")


class CommandFailed(RuntimeFailure):
    """The command could not start or ended with another status than 0; `reason` is what it said last."""

    def __init__(self, program: str, status: int | None, tail: Sequence[str]) -> None:
        self.reason = failure_reason(tail) or f"{program} ended with status {status} and said nothing"
        super().__init__(self.reason)


def failure_reason(tail: Sequence[str]) -> str:
    """What a failed command's last lines say: from its first `error:` line on, else its last line."""
    lines = [line.strip() for line in tail if line.strip()]
    for position, line in enumerate(lines):
        if line.lower().startswith("error:"):
            return " ".join(lines[position:])[len("error:") : REASON_CHARACTERS].strip()
    return lines[-1][:REASON_CHARACTERS] if lines else ""


async def run_command(
    argv: Sequence[str | Path],
    *,
    log: Path,
    on_line: Callable[[str], None],
    held_fds: Sequence[int] = (),
) -> None:
    """Run `argv` to its end; `held_fds` stay open in it, so that a lock outlives us as long as the command does.

    Raises CommandFailed. When cancelled, the command's process group is killed and reaped first.
    """
    program = Path(argv[0]).name
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        process = await asyncio.create_subprocess_exec(
            *map(str, argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(held_fds),
        )
    except OSError as exc:
        raise CommandFailed(program, None, [f"error: cannot run {argv[0]}: {exc.strerror}"]) from exc
    try:
        with log.open("a", encoding="utf-8") as record:
            async for line in _lines(process):
                record.write(line + "\n")
                tail.append(line)
                on_line(line)
        status = await process.wait()
    finally:
        await _end_group(process)
    if status != 0:
        raise CommandFailed(program, status, tail)


class LineReader:
    """Chunks of output in, lines out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that `chunk` completes."""
        *complete, self._rest = _LINE_END.split(self._rest + chunk)
        return [line.decode(errors="replace") for line in complete]

    def end(self) -> list[str]:
        """What came after the last line's end, if anything did."""
        rest, self._rest = self._rest, b""
        return [rest.decode(errors="replace")] if rest else []


async def _lines(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    assert process.stdout is not None
    reader = LineReader()
    while chunk := await process.stdout.read(65536):
        for line in reader.feed(chunk):
            yield line
    for line in reader.end():
        yield line


async def _end_group(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())
