"""Starts an engine in its own environment: `python -P run.py NAME ARGUMENT...` runs `engines.NAME` as the main module.

Makes the package `engines` importable by itself. Neither its folder nor the one above may stand on sys.path: there lie
the control plane's packages, and folders such as vllm and diffusers, which would hide the libraries of those names.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def main(arguments: list[str]) -> None:
    names = sorted(path.parent.name for path in FOLDER.glob("*/__main__.py"))
    if not arguments or arguments[0] not in names:
        sys.exit(f"usage: run.py NAME ARGUMENT...; NAME is one of: {', '.join(names)}")
    ours = {FOLDER, FOLDER.parent}
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in ours]
    _import_engines()
    name = f"engines.{arguments[0]}"
    sys.argv = [name, *arguments[1:]]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _import_engines() -> None:
    """Put the package `engines` among the imported modules, by its place."""
    spec = importlib.util.spec_from_file_location(
        "engines", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    if spec is None or spec.loader is None:
        sys.exit(f"cannot import the package engines from {FOLDER}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["engines"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    main(sys.argv[1:])
