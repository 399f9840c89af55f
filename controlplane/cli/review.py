"""Judges a valid configuration against this host: what fits where, what fits together, what never can. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.cli.fit import Need, fit_at_once, places, together
from controlplane.ports import DeviceReading
from controlplane.settings import ModelSettings, Settings


@dataclass(frozen=True, slots=True)
class DeviceReview:
    """A device and the part of it that may be used; `total_mib` is None when it is not on this host."""

    device_id: str
    name: str
    total_mib: int | None
    budget_mib: int


@dataclass(frozen=True, slots=True)
class ModelReview:
    """A model, the devices it fits on, and where its files are."""

    model: ModelSettings
    fits_on: tuple[str, ...]
    files: str


@dataclass(frozen=True, slots=True)
class Review:
    """The whole judgement. With any error the configuration cannot work here; warnings only may surprise."""

    devices: tuple[DeviceReview, ...]
    models: tuple[ModelReview, ...]
    together: tuple[tuple[str, ...], ...]
    errors: tuple[str, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class ModelFound:
    """What was found out about a model on this host: where its files are, and why it cannot run here."""

    files: str
    problems: tuple[str, ...] = ()


def review(settings: Settings, readings: Sequence[DeviceReading], found: Mapping[str, ModelFound]) -> Review:
    """Judge the configuration on a host with these devices; `found` is by model id."""
    devices = tuple(_devices(settings, readings))
    budgets = {device.device_id: device.budget_mib for device in devices}
    needs = {model.model_id: _need(model) for model in settings.models}
    models = tuple(
        ModelReview(model, tuple(places(needs[model.model_id], budgets)), found[model.model_id].files)
        for model in settings.models
    )
    groups = together(list(needs.values()), budgets)
    return Review(
        devices=devices,
        models=models,
        together=tuple(tuple(need.model_id for need in group) for group in groups),
        errors=(
            *_budgets_beyond(settings, readings),
            *_never_fitting(models, budgets),
            *_always_loaded(settings, budgets),
            *(problem for each in found.values() for problem in each.problems),
        ),
        warnings=tuple(_absent(devices)),
    )


def _need(model: ModelSettings) -> Need:
    return Need(model.model_id, model.vram_required_mb, model.priority)


def _devices(settings: Settings, readings: Sequence[DeviceReading]) -> Iterator[DeviceReview]:
    """The devices of this host, then those that only the configuration knows."""
    for reading in readings:
        budget = settings.devices.budget_mib(reading.device_id, reading.total_mib)
        yield DeviceReview(reading.device_id, reading.name, reading.total_mib, budget)
    here = {reading.device_id for reading in readings}
    for device_id, budget in settings.devices.budgets_mib.items():
        if device_id not in here:
            yield DeviceReview(device_id, "not on this host", None, budget)


def _budgets_beyond(settings: Settings, readings: Sequence[DeviceReading]) -> Iterator[str]:
    for reading in readings:
        budget = settings.devices.budgets_mib.get(reading.device_id, 0)
        if budget > reading.total_mib:
            yield (
                f"devices.budgets_mib.{reading.device_id} is {budget}, but the device has {reading.total_mib} MiB; "
                f"write less than that"
            )


def _never_fitting(models: Sequence[ModelReview], budgets: Mapping[str, int]) -> Iterator[str]:
    largest = max(budgets.values(), default=0)
    for each in models:
        if not each.fits_on:
            yield (
                f"model {each.model.model_id} can never be loaded: it needs {each.model.vram_required_mb} MiB and the "
                f"largest budget is {largest}; raise devices.budgets_mib, or serve a smaller or quantised model"
            )


def _always_loaded(settings: Settings, budgets: Mapping[str, int]) -> Iterator[str]:
    """Each alone may fit; that all models which are never to leave fit beside each other is another matter."""
    always = [model for model in settings.models if model.min_replicas]
    alone = all(places(_need(model), budgets) for model in always)
    if alone and not fit_at_once([model.vram_required_mb for model in always], list(budgets.values())):
        names = ", ".join(model.model_id for model in always)
        yield f"the models with min_replicas 1 do not fit together ({names}); set it to 0 for some of them"


def _absent(devices: Sequence[DeviceReview]) -> Iterator[str]:
    for device in devices:
        if device.total_mib is None:
            yield f"device {device.device_id} of devices.budgets_mib is not on this host; its models cannot run here"
