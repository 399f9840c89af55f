"""`inferctl models`: alone, the models of the running service; with `list` and `fetch`, model files on this host."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli import admin
from controlplane.cli.options import CONFIG_PATH, DEFAULT_URL, ConfigOption, JsonOption, KeyOption, UrlOption
from controlplane.cli.outcome import answering
from controlplane.cli.progress import shown_progress
from controlplane.cli.tables import key, table
from controlplane.runtime.choosing import make_model_files
from controlplane.runtime.environments import Environments
from controlplane.runtime.model_catalog import CatalogEntry, ShippedModel
from controlplane.runtime.model_files import ModelFiles
from controlplane.runtime.model_folder import missing_parts
from controlplane.runtime.recipes import shipped_recipes
from controlplane.settings import Settings, load

app = typer.Typer(invoke_without_command=True)

_COLUMNS = (key("name"), key("model_type", "kind"), key("fetched", "here"), key("license"), key("summary"))


@app.callback()
def models(
    context: typer.Context, url: UrlOption = DEFAULT_URL, key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Show the models of the running service; list and fetch model files."""
    if context.invoked_subcommand is None:
        admin.models(url, key, as_json)


@app.command("list")
def list_files(config: ConfigOption = CONFIG_PATH, as_json: JsonOption = False) -> None:
    """Show the models that have a name here: those that can be fetched, and those that are shipped."""
    with answering(as_json) as answer:
        rows = [_row(model, folder) for model, folder in _files(load(config)).listed()]
        answer.give({"models": rows}, table(_COLUMNS, rows))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name from `models list`, or a Hugging Face id.")],
    config: ConfigOption = CONFIG_PATH,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model's files, if they are not here yet."""
    with answering(as_json) as answer:
        folder = asyncio.run(_fetched(_files(load(config)), name))
        answer.give({"name": name, "folder": str(folder)}, f"{name} is in {folder}")


async def _fetched(files: ModelFiles, name: str) -> Path:
    try:
        with shown_progress() as progress:
            return await files.fetch(name, progress)
    finally:
        await files.close()


def _files(settings: Settings) -> ModelFiles:
    return make_model_files(settings, Environments(settings.engines_dir, shipped_recipes()))


def _row(model: CatalogEntry | ShippedModel, folder: Path) -> Mapping[str, str | bool]:
    return {
        "name": model.name,
        "model_type": model.model_type,
        "fetched": not missing_parts(folder),
        "license": model.license,
        "summary": model.summary,
    }
