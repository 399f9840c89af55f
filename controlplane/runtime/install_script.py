"""An environment's installation as a shell script and its lock: for images, which are built without the control plane.

The same steps as `environments` takes; the text changes with the recipe only, so a builder's cache holds as long.
"""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from controlplane.runtime.environments import checks, pip_steps
from controlplane.runtime.recipes import Recipe

SCRIPT = "install.sh"
LOCK = "requirements.lock"


def write_script(recipe: Recipe, into: Path, prefix: Path, *, check: bool = True) -> Path:
    """Write the script, and the lock beside it, into folder `into`; run, it makes the environment at `prefix`.

    `check`: and sees that it works, which needs the devices that it is for. Raises OSError.
    """
    into.mkdir(parents=True, exist_ok=True)
    if recipe.lock:
        shutil.copyfile(recipe.lock, into / LOCK)
    script = into / SCRIPT
    script.write_text("".join(f"{line}\n" for line in _lines(recipe, prefix, check=check)), encoding="utf-8")
    return script


def _lines(recipe: Recipe, prefix: Path, *, check: bool) -> list[str]:
    python = prefix / "bin" / "python"
    beside = replace(recipe, lock=Path(LOCK)) if recipe.lock else recipe
    commands: list[Sequence[str | Path]] = [["python3", "-I", "-m", "venv", prefix]]
    commands += [[python, "-I", "-m", "pip", *arguments] for arguments, _ in pip_steps(beside, python, bars=False)]
    if check:
        commands += [[python, "-I", "-c", program] for program in checks(recipe, python)]
    return [
        f"# Makes the engine environment {recipe.name} at {prefix}.",
        "set -eu",
        'cd "$(dirname "$0")"',
        *(shlex.join(map(str, command)) for command in commands),
    ]
