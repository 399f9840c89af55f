"""One job's run of a pipeline's own `__call__`, stopped wherever it would call the denoiser.

The pipeline keeps its own arithmetic: prompt encoding, noise, scheduler, guidance, decoding. Only the denoiser is taken
out: the stand-in hands its arguments over and waits. All sessions run in the worker's thread, one at a time.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from greenlet import getcurrent, greenlet
from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class DenoiserCall:
    """The arguments of one call of the denoiser, by the names of its `forward`."""

    arguments: Mapping[str, Any]


class StandIn:
    """Takes the denoiser's place in one job's copy of the pipeline; everything but the call is the denoiser's."""

    def __init__(self, denoiser: Any, parameters: tuple[str, ...]) -> None:
        self._denoiser = denoiser
        self._parameters = parameters

    def __call__(self, *positional: Any, **named: Any) -> Any:
        call = DenoiserCall(dict(zip(self._parameters, positional, strict=False)) | named)
        return getcurrent().parent.switch(call)

    def cache_context(self, *_positional: Any, **_named: Any) -> Any:
        """Caches across steps are off: they would carry one job's activations into another's."""
        return nullcontext()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)


class Session:
    """Started, it is either at `call`, or over with `image`. Errors of the pipeline come out of start and resume."""

    def __init__(self, draw: Callable[[], Image]) -> None:
        self._run = greenlet(draw)
        self.call: DenoiserCall | None = None
        self.image: Image | None = None

    def start(self) -> None:
        self._take(self._run.switch())

    def resume(self, output: Any) -> None:
        """Give the denoiser's output; runs the scheduler, and on the last step the decoder."""
        self.call = None
        self._take(self._run.switch(output))

    def abandon(self) -> None:
        """Unwind the pipeline where it stands; harmless when it is over."""
        self.call = None
        if not self._run.dead:
            self._run.throw()

    def _take(self, answer: Any) -> None:
        if self._run.dead:
            self.image = answer
        else:
            self.call = answer
