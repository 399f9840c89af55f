"""Runs the installed `inferctl` as a process, and writes configurations for it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INFERCTL = Path(sys.executable).with_name("inferctl")


@dataclass
class Ended:
    """How a run of inferctl ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def inferctl(*arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> Ended:
    """Run the program to its end, with these variables on top of the usual ones."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("INFERCTL_")}
    run = subprocess.run(
        [INFERCTL, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=variables | (env or {}),
        cwd=cwd,
        timeout=60,
        check=False,
    )
    return Ended(run.returncode, run.stdout, run.stderr)


def write_config(folder: Path, *models: dict[str, Any], **keys: Any) -> Path:
    """Write both files; entries need to name only what matters to the test."""
    entry = {"model_type": "text2text", "engine": "simulated", "vram_required_mb": 100}
    (folder / "models.json").write_text(json.dumps({"models": [entry | model for model in models]}))
    service = {
        "state_dir": "state",
        "cache_dir": "cache",
        "devices": {"source": "host", "budgets_mib": {"host": 1000}},
        **keys,
    }
    path = folder / "service.json"
    path.write_text(json.dumps(service))
    return path
