"""Looks at one model on this host: are its files here, and would its engine's adapter launch it? Starts nothing."""

from collections.abc import Iterator, Sequence

from adapters.base import Target
from adapters.errors import LaunchError
from adapters.registry import make_adapters
from controlplane.cli.review import ModelFound
from controlplane.ports import DeviceReading
from controlplane.runtime.model_catalog import shipped_catalog
from controlplane.runtime.model_files import HubId, resolve
from controlplane.runtime.model_folder import ModelFilesMissing, check_model_folder
from controlplane.settings import ModelSettings, Settings

_TO_FETCH = ModelFound("not fetched yet")


def look(model: ModelSettings, settings: Settings, readings: Sequence[DeviceReading]) -> ModelFound:
    """Where its files are, and every reason why it cannot be launched on these devices."""
    if model.model_path is None:
        return ModelFound("none needed", tuple(_refusals(model, "", settings, readings)))
    catalog = shipped_catalog()
    try:
        place = resolve(model.model_path, settings.models_dir, catalog.shipped)
        if isinstance(place, HubId):
            return _TO_FETCH
        folder = check_model_folder(place)
    except ModelFilesMissing as exc:
        if model.model_path in catalog.entries:
            return _TO_FETCH
        return ModelFound("missing", (f"model {model.model_id}: {exc}",))
    return ModelFound("here", tuple(_refusals(model, str(folder), settings, readings)))


def _refusals(
    model: ModelSettings, folder: str, settings: Settings, readings: Sequence[DeviceReading]
) -> Iterator[str]:
    """What the adapter says on the devices where there would be room; each sentence once."""
    adapter = make_adapters()[model.engine]
    wanted = model.launch(folder, model.vram_required_mb, {})
    said: set[str] = set()
    for reading in readings:
        if model.vram_required_mb > settings.devices.budget_mib(reading.device_id, reading.total_mib):
            continue
        try:
            adapter.launch(wanted, Target(reading.kind, reading.index, reading.total_mib))
        except LaunchError as exc:
            if str(exc) not in said:
                yield str(exc)
            said.add(str(exc))
