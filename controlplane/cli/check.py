"""`inferctl check`: reads the configuration and looks at this host, and says what works here; starts nothing."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pynvml
import typer
from rich.console import RenderableType
from rich.text import Text

from controlplane.cli.model_look import look
from controlplane.cli.options import CONFIG_PATH, ConfigOption, JsonOption
from controlplane.cli.outcome import ExitCode, answering
from controlplane.cli.review import Review, review
from controlplane.cli.tables import Column, Row, amount, key, table
from controlplane.ports import DeviceReading
from controlplane.runtime.devices import detect
from controlplane.settings import Settings, load

_DEVICES = (
    key("device_id", "device"),
    key("name"),
    amount("total_mib", "total MiB"),
    amount("budget_mib", "budget MiB"),
)
_MODELS = (
    key("model_id", "model"),
    key("types", "kinds"),
    key("engine"),
    amount("vram_mib", "MiB"),
    amount("priority"),
    Column("fits on", lambda row: ", ".join(row["fits_on"]) or "nothing"),
    key("files"),
)


def check(config: ConfigOption = CONFIG_PATH, as_json: JsonOption = False) -> None:
    """Check the configuration against this host, without starting anything."""
    with answering(as_json) as answer:
        settings = load(config)
        readings = asyncio.run(_readings(settings))
        looked_at = {model.model_id: look(model, settings, readings) for model in settings.models}
        found = review(settings, readings, looked_at)
        answer.give(_payload(found), *_shown(found))
        if found.errors:
            raise typer.Exit(ExitCode.USAGE)


async def _readings(settings: Settings) -> list[DeviceReading]:
    devices = await detect(settings.devices.source, pynvml)
    return list(await devices.read())


def _payload(found: Review) -> Mapping[str, Any]:
    devices = [
        {"device_id": each.device_id, "name": each.name, "total_mib": each.total_mib, "budget_mib": each.budget_mib}
        for each in found.devices
    ]
    models: list[Row] = [
        {
            "model_id": each.model.model_id,
            "types": list(each.model.types),
            "engine": each.model.engine,
            "vram_mib": each.model.vram_required_mb,
            "priority": each.model.priority,
            "fits_on": list(each.fits_on),
            "files": each.files,
        }
        for each in found.models
    ]
    return {
        "ok": not found.errors,
        "devices": devices,
        "models": models,
        "together": [list(group) for group in found.together],
        "errors": list(found.errors),
        "warnings": list(found.warnings),
    }


def _shown(found: Review) -> list[RenderableType]:
    payload = _payload(found)
    together = [f"  {' + '.join(group)}" for group in found.together] or ["  nothing"]
    verdict = "the configuration does not work here" if found.errors else "the configuration is good"
    return [
        table(_DEVICES, payload["devices"], empty="no devices"),
        "",
        table(_MODELS, payload["models"], empty="no models"),
        "",
        Text("\n".join(["resident together:", *together, ""])),
        *(Text(f"error: {text}", style="bold red") for text in found.errors),
        *(Text(f"warning: {text}", style="yellow") for text in found.warnings),
        Text(verdict, style="bold"),
    ]
