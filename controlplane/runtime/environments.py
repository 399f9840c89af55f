"""Engine environments: one virtual environment per recipe, made on first use and never changed afterwards.

A folder is an environment once its READY file stands in it; it is written last, so a half-made one counts as absent
and is made anew. It is built at its final place, for a virtual environment bakes its own path into its scripts.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path

from controlplane.errors import RuntimeFailure
from controlplane.runtime.commands import CommandFailed, run_command
from controlplane.runtime.file_lock import file_lock
from controlplane.runtime.folders import remove_folder
from controlplane.runtime.progress import OnProgress, PipReader, Progress
from controlplane.runtime.recipes import Interpreter, Recipe, find_interpreter, folder_name

READY_FILE = "READY"
EXTRAS = "extras"


class EnvironmentInstallFailed(RuntimeFailure):
    """An environment could not be made; nothing of it is left but its log."""


class EnvironmentBroken(RuntimeFailure):
    """An environment is absent or does not work; the message names the command that makes it anew."""


def extras_folder(python: Path, name: str) -> Path:
    """Where the environment that `python` belongs to has its extras `name`."""
    return python.parent.parent / EXTRAS / name


class EnvironmentStatus(StrEnum):
    ABSENT = "absent"
    READY = "ready"
    BROKEN = "broken"


class Environments:
    """The environments under `root`, one per recipe; several processes may share a root."""

    def __init__(self, root: Path, recipes: Mapping[str, Recipe]) -> None:
        self._root = root
        self._recipes = recipes

    def names(self) -> tuple[str, ...]:
        return tuple(self._recipes)

    def status(self, name: str) -> EnvironmentStatus:
        """Whether `name` is there, by its files alone; `verify` runs it. Raises EnvironmentBroken for unknown names."""
        interpreter = find_interpreter(self._recipe(name).settings.python)
        if interpreter is None:
            return EnvironmentStatus.ABSENT
        folder = self._folder(name, interpreter)
        if not (folder / READY_FILE).is_file():
            return EnvironmentStatus.ABSENT
        usable = os.access(_python(folder), os.X_OK)
        return EnvironmentStatus.READY if usable else EnvironmentStatus.BROKEN

    def python(self, name: str) -> Path:
        """The Python of a ready environment; raises EnvironmentBroken where it is absent or broken."""
        status = self.status(name)
        if status is not EnvironmentStatus.READY:
            raise EnvironmentBroken(f"engine environment {name} is {status}: run 'inferctl engines install {name}'")
        return _python(self._folder(name, self._interpreter(name)))

    async def verify(self, name: str) -> None:
        """Run the recipe's import check; raises EnvironmentBroken with what it said."""
        python = self.python(name)
        try:
            await self._check(name, python, self._log(python.parent.parent))
        except CommandFailed as exc:
            raise EnvironmentBroken(
                f"engine environment {name} is broken: {exc.reason}; "
                f"run 'inferctl engines remove {name}', then 'inferctl engines install {name}'"
            ) from exc

    async def ensure(self, name: str, progress: OnProgress) -> Path:
        """The environment's Python, making the environment if it is not ready. Raises EnvironmentInstallFailed.

        Waits while another process makes it. Cancelled, it ends pip and leaves nothing but the log.
        """
        if self.status(name) is EnvironmentStatus.READY:
            return self.python(name)
        folder = self._folder(name, self._interpreter(name))
        async with self._locked(name, progress) as lock:
            if self.status(name) is not EnvironmentStatus.READY:
                await self._make(name, folder, lock, progress)
        progress(Progress(name, "ready"))
        return _python(folder)

    async def remove(self, name: str) -> None:
        """Remove every environment made for `name`, also from earlier recipes; no replica may use one."""
        self._recipe(name)
        if not self._root.is_dir():
            return
        async with self._locked(name, lambda _: None):
            for folder in self._root.iterdir():
                if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{12}}", folder.name):
                    await remove_folder(folder)

    @asynccontextmanager
    async def _locked(self, name: str, progress: OnProgress) -> AsyncIterator[int]:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise EnvironmentInstallFailed(
                f"cannot keep engine environments in {self._root}: {exc.strerror}; configure another folder"
            ) from exc

        def on_wait(holder: str) -> None:
            progress(Progress(name, "waiting", f"{holder} is changing this environment"))

        async with file_lock(self._root / f"{name}.lock", on_wait) as descriptor:
            yield descriptor

    async def _make(self, name: str, folder: Path, lock: int, progress: OnProgress) -> None:
        await remove_folder(folder)
        log = self._log(folder)
        log.unlink(missing_ok=True)
        try:
            await self._install(name, folder, lock, progress)
            await asyncio.to_thread(_mark_ready, folder, self._recipe(name))
        except CommandFailed as exc:
            raise EnvironmentInstallFailed(
                f"cannot install engine environment {name}: {exc.reason} (whole output: {log})"
            ) from exc
        except OSError as exc:
            raise EnvironmentInstallFailed(f"cannot install engine environment {name}: {exc}") from exc
        finally:
            if not (folder / READY_FILE).is_file():
                await remove_folder(folder)

    async def _install(self, name: str, folder: Path, lock: int, progress: OnProgress) -> None:
        interpreter, log = self._interpreter(name), self._log(folder)
        python = _python(folder)
        progress(Progress(name, "creating", f"Python {interpreter.tag}"))
        await run_command([interpreter.program, "-I", "-m", "venv", folder], log=log, on_line=_ignore, held_fds=[lock])
        for arguments, total in pip_steps(self._recipe(name), python):
            reader = PipReader(Progress(name, "fetching", total=total), progress)
            await run_command([python, "-I", "-u", "-m", "pip", *arguments], log=log, on_line=reader, held_fds=[lock])
        progress(Progress(name, "checking"))
        await self._check(name, python, log, [lock])

    async def _check(self, name: str, python: Path, log: Path, held_fds: Sequence[int] = ()) -> None:
        for check in checks(self._recipe(name), python):
            await run_command([python, "-I", "-c", check], log=log, on_line=_ignore, held_fds=held_fds)

    def _recipe(self, name: str) -> Recipe:
        try:
            return self._recipes[name]
        except KeyError:
            raise EnvironmentBroken(
                f"there is no engine environment {name!r}; there are: {', '.join(self._recipes)}"
            ) from None

    def _interpreter(self, name: str) -> Interpreter:
        wanted = self._recipe(name).settings.python
        interpreter = find_interpreter(wanted)
        if interpreter is None:
            raise EnvironmentInstallFailed(
                f"cannot install engine environment {name}: it needs Python {wanted}, and none is on the search path; "
                f"install one, for instance as python3.11"
            )
        return interpreter

    def _folder(self, name: str, interpreter: Interpreter) -> Path:
        # Absolute, but with links as they are: the path is written into the environment.
        return Path(os.path.abspath(self._root / folder_name(self._recipe(name), interpreter)))  # noqa: PTH100

    @staticmethod
    def _log(folder: Path) -> Path:
        return folder.with_name(f"{folder.name}.log")


def pip_steps(recipe: Recipe, python: Path, *, bars: bool = True) -> list[tuple[Sequence[str | Path], int]]:
    """pip's arguments, step by step, each with the number of packages it names (0: not known)."""
    settings = recipe.settings
    quiet = ["--disable-pip-version-check", "--no-input"]
    bar = ["--progress-bar", "raw" if settings.pip and bars else "off"]
    steps: list[tuple[Sequence[str | Path], int]] = []
    if settings.pip:
        steps.append((["install", *quiet, f"pip=={settings.pip}"], 1))
    if settings.first:
        steps.append((["install", *quiet, *bar, *settings.first], 0))
    if recipe.lock:
        exactly: list[str | Path] = ["--no-deps", "--require-hashes", "--requirement", recipe.lock]
        steps.append((["install", *quiet, *bar, *exactly], recipe.locked_packages))
    if settings.remove:
        steps.append((["uninstall", *quiet, "--yes", *settings.remove], len(settings.remove)))
    for extras in settings.extras:
        aside: list[str | Path] = ["--no-deps", "--target", extras_folder(python, extras.name)]
        steps.append((["install", *quiet, *bar, *aside, *extras.packages], len(extras.packages)))
    return steps


def checks(recipe: Recipe, python: Path) -> list[str]:
    """Programs for `python` that fail where the environment does not work."""
    programs = [recipe.settings.check]
    for extras in recipe.settings.extras:
        ahead = str(extras_folder(python, extras.name))
        programs.append(f"import sys; sys.path.insert(0, {ahead!r})\n{extras.check}")
    return programs


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _ignore(_line: str) -> None:
    return None


def _mark_ready(folder: Path, recipe: Recipe) -> None:
    """Make the folder an environment; on disk before it counts, so that a power cut leaves none that lies."""
    os.sync()
    unfinished = folder / f"{READY_FILE}.partial"
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump({"environment": recipe.name, "summary": recipe.settings.summary, "recipe": recipe.content}, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(folder / READY_FILE)
