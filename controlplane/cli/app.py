"""Puts the commands together into one program."""

from importlib.metadata import version
from typing import Annotated

import typer

from controlplane.cli import admin, callbacks, engines, model_files
from controlplane.cli.check import check
from controlplane.cli.doctor import doctor
from controlplane.cli.serve import serve

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,
    help="Inference Manager: one reliable inference service out of a GPU host.",
)
app.command()(serve)
app.command()(check)
app.command()(doctor)
app.add_typer(engines.app, name="engines")
app.add_typer(model_files.app, name="models")
app.add_typer(callbacks.app, name="callbacks")
admin.add_to(app)


def main() -> None:
    """Run the program; ends the process with an exit code."""
    app(prog_name="inferctl")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("inference-manager"))
        raise typer.Exit


@app.callback()
def program(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Inference Manager: one reliable inference service out of a GPU host."""
