"""Runs the diffusers engine's tests inside its environment: `.venv/bin/python tests/engines/run.py [PYTEST...]`.

The environment is made on first use. Its libraries come first; pytest and what else the tests need come from the
project's virtual environment, which is put behind them.
"""

import asyncio
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests import real

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = "diffusers-cpu"

# Run by the environment's Python: the project's packages, then the project itself, behind its own.
INSIDE = """
import sys
sys.path += sys.argv.pop(1).split("\\n")
import pytest
sys.exit(pytest.main())
"""


def main(arguments: list[str]) -> None:
    python = asyncio.run(_environment())
    given = any((ROOT / argument.split("::")[0]).exists() for argument in arguments if not argument.startswith("-"))
    behind = "\n".join((sysconfig.get_path("purelib"), str(ROOT)))
    os.chdir(ROOT)
    os.execv(python, [str(python), "-P", "-c", INSIDE, behind, *arguments, *([] if given else ["tests/engines"])])


async def _environment() -> Path:
    """The Python of the engine's environment; exits where it could not run the project's packages."""
    python = await real.environments().ensure(ENVIRONMENT, real.show)
    version = "import sys; print(*sys.version_info[:2])"
    found = subprocess.run([python, "-c", version], capture_output=True, text=True, check=True).stdout.split()
    if found != [str(part) for part in sys.version_info[:2]]:
        sys.exit(f"{ENVIRONMENT} has Python {'.'.join(found)}; make the project's .venv with the same version")
    return python


if __name__ == "__main__":
    main(sys.argv[1:])
