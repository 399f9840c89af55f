"""Shows how an installation or a fetch comes along: a moving bar on a terminal, a line per phase elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from controlplane.cli.outcome import console
from controlplane.runtime.progress import OnProgress, Progress


@contextmanager
def shown_progress() -> Iterator[OnProgress]:
    """A callback for the work within; everything goes to stderr, so that stdout holds the answer alone."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[detail]}"),
    )
    with Bars(*columns, console=console(stderr=True)) as bars:
        yield _Moving(bars)


class _Lines:
    """One line for each new phase: readable in a log."""

    def __init__(self) -> None:
        self._said: tuple[str, str] | None = None

    def __call__(self, progress: Progress) -> None:
        if (progress.name, progress.phase) != self._said:
            self._said = (progress.name, progress.phase)
            detail = f" ({progress.detail})" if progress.detail else ""
            sys.stderr.write(f"{progress.name}: {progress.phase}{detail}\n")
            sys.stderr.flush()


class _Moving:
    """One bar per thing that is being made; a total of 0 means that it is not known yet."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, progress: Progress) -> None:
        if progress.name not in self._tasks:
            self._tasks[progress.name] = self._bars.add_task(progress.name, total=None, detail="")
        self._bars.update(
            self._tasks[progress.name],
            description=f"{progress.name}: {progress.phase}",
            completed=progress.done,
            total=progress.total or None,
            detail=progress.detail,
        )
