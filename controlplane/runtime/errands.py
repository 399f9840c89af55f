"""Errands: one-off runs of an engine environment's Python, such as fetching and converting a model.

The port, and its implementation by environments on this host; `docker_errands` runs them in the environments' images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from controlplane.runtime.commands import run_command
from controlplane.runtime.environments import Environments, EnvironmentStatus
from controlplane.runtime.progress import OnProgress


@dataclass(frozen=True, slots=True)
class Errand:
    """One run of `environment`'s Python; at most one of each `name` at a time, which its caller's lock sees to.

    `program` is a script of ours, which stands alone, or a module's name. Whatever it reads and writes lies in
    `folder`, an absolute path. `network`: it fetches something.
    """

    name: str
    environment: str
    program: Path | str
    arguments: Sequence[str | Path]
    folder: Path
    network: bool = False


@dataclass(frozen=True, slots=True)
class Listening:
    """Who hears of an errand: `log` gets its output, `on_line` each line; `lock` is held for as long as it runs."""

    log: Path
    on_line: Callable[[str], None]
    lock: int


class Errands(Protocol):
    """Runs errands to their end."""

    async def is_here(self, environment: str) -> bool:
        """Whether its Python can be run without making or fetching anything first."""
        ...

    async def prepare(self, environment: str, progress: OnProgress) -> None:
        """Make it usable. Raises RuntimeFailure."""
        ...

    async def run(self, errand: Errand, listening: Listening) -> None:
        """Raises CommandFailed when it fails, RuntimeFailure when it cannot be run; cancelled, it ends at once."""
        ...

    async def left(self) -> Sequence[str]:
        """Names of errands that are there, under way or broken off with whoever began them."""
        ...

    async def end(self, name: str) -> None:
        """Leave nothing of it. Only for who holds its lock."""
        ...

    async def close(self) -> None: ...


class HostErrands:
    """By environments on this host. An errand holds its lock itself, so what is broken off is never mistaken."""

    def __init__(self, environments: Environments) -> None:
        self._environments = environments

    async def is_here(self, environment: str) -> bool:
        return self._environments.status(environment) is EnvironmentStatus.READY

    async def prepare(self, environment: str, progress: OnProgress) -> None:
        await self._environments.ensure(environment, progress)

    async def run(self, errand: Errand, listening: Listening) -> None:
        python = self._environments.python(errand.environment)
        program = ["-m", errand.program] if isinstance(errand.program, str) else [errand.program]
        argv = [python, "-I", "-u", *program, *errand.arguments]
        await run_command(argv, log=listening.log, on_line=listening.on_line, held_fds=[listening.lock])

    async def left(self) -> Sequence[str]:
        return ()

    async def end(self, name: str) -> None:
        """Nothing outlives its lock."""

    async def close(self) -> None:
        """Nothing is held open."""
