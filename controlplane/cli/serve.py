"""`inferctl serve`: reads the configuration, lets the command line overrule it, and runs the service."""

from importlib import import_module
from typing import Annotated, Literal

import typer

from controlplane.cli.options import CONFIG_PATH, ConfigOption
from controlplane.cli.outcome import answering
from controlplane.settings import load

LogLevel = Literal["debug", "info", "warning", "error"]


def serve(
    config: ConfigOption = CONFIG_PATH,
    host: Annotated[str | None, typer.Option(help="Listen on this address instead of the configured one.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Listen on this port instead; 0: a free one.")
    ] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Log from this level on.")] = None,
    keep_engines: Annotated[
        bool, typer.Option("--keep-engines", help="Leave engines running at the end; the next start takes them over.")
    ] = False,
) -> None:
    """Run the service until it is told to stop."""
    with answering(as_json=False):
        settings = load(config).with_overrides(host=host, port=port, log_level=log_level)
        # Imported only here: it brings the web server and the database, and every other command answers sooner without.
        import_module("controlplane.main").serve(settings, keep_engines=keep_engines)
