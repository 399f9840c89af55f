"""Where an engine's python comes from: a pinned environment made on first use, or the operator's own."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from controlplane.errors import RuntimeFailure
from controlplane.runtime.environments import Environments
from controlplane.runtime.progress import Progress

OWN_SUFFIX = "-own"


def in_words(progress: Progress) -> str:
    """One line for a start's phase."""
    count = f" {progress.done} of {progress.total}" if progress.total else ""
    detail = f": {progress.detail}" if progress.detail else ""
    return f"{progress.phase} {progress.name}{count}{detail}"


class EngineInterpreters:
    """Implements the process runtime's `Interpreters`. `own` maps a name ending in OWN_SUFFIX to an interpreter."""

    def __init__(self, environments: Environments, own: Mapping[str, Path]) -> None:
        self._environments = environments
        self._own = dict(own)

    async def python(self, environment: str | None, progress: Callable[[str], None]) -> Path:
        if environment is None:
            return Path(sys.executable)
        own = self._own.get(environment)
        if own is None:
            return await self._environments.ensure(environment, lambda step: progress(in_words(step)))
        if not own.is_file():
            kind = environment.removesuffix(OWN_SUFFIX)
            raise RuntimeFailure(f"there is no interpreter at {own}; correct engines.{kind}.python")
        return own
