"""Runs a module with an engine environment's Python: `python -m benchmarks.in_environment NAME MODULE ARGUMENT...`.

The environment is made on first use, where the service keeps its own.
"""

import asyncio
import os
import sys
from pathlib import Path

from controlplane.runtime.environments import Environments
from controlplane.runtime.recipes import shipped_recipes
from controlplane.settings.manager_file import DEFAULT_CACHE_DIR


def main(arguments: list[str]) -> None:
    if len(arguments) < 2:
        sys.exit("usage: python -m benchmarks.in_environment NAME MODULE ARGUMENT...")
    name, module, *rest = arguments
    folder = Path(os.environ.get("IM_TEST_CACHE") or DEFAULT_CACHE_DIR).expanduser() / "engines"
    environments = Environments(folder, shipped_recipes())
    python = asyncio.run(environments.ensure(name, lambda step: print(f"{step.name}: {step.phase}", file=sys.stderr)))
    os.execv(python, [str(python), "-m", module, *rest])


if __name__ == "__main__":
    main(sys.argv[1:])
