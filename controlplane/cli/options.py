"""The options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

CONFIG_PATH = Path("config/inference_manager.json")
DEFAULT_URL = "http://127.0.0.1:8000"

JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The file that says how the service runs.")]
UrlOption = Annotated[str, typer.Option("--url", envvar="INFERCTL_URL", help="Address of the running service.")]
KeyOption = Annotated[str | None, typer.Option("--key", envvar="INFERCTL_KEY", help="API key with the scope admin.")]
