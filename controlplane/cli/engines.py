"""`inferctl engines`: the environments that engines run in; each is made on first use, or here beforehand."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli.options import CONFIG_PATH, ConfigOption, JsonOption
from controlplane.cli.outcome import answering
from controlplane.cli.progress import shown_progress
from controlplane.cli.tables import key, table
from controlplane.errors import ConfigError
from controlplane.runtime.environments import Environments
from controlplane.runtime.install_script import write_script
from controlplane.runtime.recipes import Recipe, shipped_recipes
from controlplane.settings import load

app = typer.Typer(no_args_is_help=True, help="The environments that engines run in: list, install, remove.")

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="An environment, as `inferctl engines list` names it.")
]

_COLUMNS = (key("name"), key("status"), key("summary"))


@app.command("list")
def list_engines(config: ConfigOption = CONFIG_PATH, as_json: JsonOption = False) -> None:
    """Show the environments and whether they are installed."""
    with answering(as_json) as answer:
        recipes = shipped_recipes()
        environments = Environments(load(config).engines_dir, recipes)
        rows = [_row(recipe, environments) for recipe in recipes.values()]
        answer.give({"engines": rows}, table(_COLUMNS, rows))


@app.command()
def install(name: NameArgument, config: ConfigOption = CONFIG_PATH, as_json: JsonOption = False) -> None:
    """Install an environment, or see that it works."""
    with answering(as_json) as answer:
        environments = Environments(load(config).engines_dir, shipped_recipes())
        python = asyncio.run(_installed(environments, name))
        answer.give({"name": name, "status": "ready", "python": str(python)}, f"{name} is ready")


@app.command()
def export(
    name: NameArgument,
    folder: Annotated[Path, typer.Argument(help="Where to write install.sh and the lock.")],
    prefix: Annotated[Path, typer.Option(help="Where the script is to make the environment.")] = Path("/opt/engine"),
    check: Annotated[bool, typer.Option(help="The script sees that it works, on the devices it is for.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Write a script that makes an environment where this program is not: in an image of your own."""
    with answering(as_json) as answer:
        recipes = shipped_recipes()
        if name not in recipes:
            raise ConfigError(f"there is no engine environment {name!r}; there are: {', '.join(recipes)}")
        try:
            script = write_script(recipes[name], folder, prefix, check=check)
        except OSError as exc:
            raise ConfigError(f"cannot write to {folder}: {exc.strerror}; name another folder") from exc
        answer.give(
            {"name": name, "script": str(script), "prefix": str(prefix)}, f"sh {script} makes {name} at {prefix}"
        )


@app.command()
def remove(name: NameArgument, config: ConfigOption = CONFIG_PATH, as_json: JsonOption = False) -> None:
    """Remove an environment; it is made anew when a model needs it."""
    with answering(as_json) as answer:
        environments = Environments(load(config).engines_dir, shipped_recipes())
        asyncio.run(environments.remove(name))
        answer.give({"name": name, "status": "absent"}, f"{name} is removed")


async def _installed(environments: Environments, name: str) -> Path:
    with shown_progress() as progress:
        python = await environments.ensure(name, progress)
        await environments.verify(name)
        return python


def _row(recipe: Recipe, environments: Environments) -> Mapping[str, str]:
    return {"name": recipe.name, "status": environments.status(recipe.name), "summary": recipe.settings.summary}
