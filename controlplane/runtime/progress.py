"""Progress of making an environment or fetching a model, and reading it out of pip's output."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

MIB = 1024 * 1024


@dataclass(frozen=True)
class Progress:
    """How far the making of `name` has come; `total` is 0 while it is not known. `done` counts packages or files."""

    name: str
    phase: str
    detail: str = ""
    done: int = 0
    total: int = 0


OnProgress = Callable[[Progress], None]


def read_pip_line(progress: Progress, line: str) -> Progress:
    """What one line of pip's output says about its progress; unchanged where it says nothing."""
    text = line.strip()
    if match := re.match(r"(?:Collecting|Processing|Requirement already satisfied:) (\S+)", text):
        return replace(progress, phase="fetching", detail=match[1].rpartition("/")[2], done=progress.done + 1)
    if re.match(r"Ignoring \S+: markers", text):
        return replace(progress, done=progress.done + 1)
    if match := re.match(r"Progress (\d+) of (\d+)", text):
        package = progress.detail.partition(":")[0]
        return replace(progress, detail=f"{package}: {int(match[1]) // MIB} of {int(match[2]) // MIB} MiB")
    if match := re.match(r"Installing collected packages: (.+)", text):
        count = match[1].count(",") + 1
        return replace(progress, phase="installing", detail=f"{count} packages", done=0, total=count)
    if text.startswith(("Successfully installed", "Successfully uninstalled")):
        return replace(progress, detail="", done=progress.total)
    return progress


class PipReader:
    """Follows pip's output and reports when it says something new."""

    def __init__(self, start: Progress, report: OnProgress) -> None:
        self._latest = start
        self._report = report

    def __call__(self, line: str) -> None:
        following = read_pip_line(self._latest, line)
        if following != self._latest:
            self._latest = following
            self._report(following)
