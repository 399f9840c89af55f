"""Looks at one image engine once: does it answer, how much runs and waits, and does work move?

Asleep is ready: it takes requests, which wait for the weights.
"""

from adapters.base import Probe
from adapters.endpoint import Endpoint
from adapters.metrics_text import read_samples
from adapters.vllm.probe import look as look_with

_RUNNING = b"diffusers_requests_running"
_WAITING = b"diffusers_requests_waiting"
_PROGRESS = (
    b"diffusers_steps_total",
    b"diffusers_images_total",
    b"diffusers_requests_total",  # operations on pictures have no steps
)
_NAMES = frozenset({_RUNNING, _WAITING, *_PROGRESS})


async def look(endpoint: Endpoint) -> Probe:
    """Ready when `/health` says 200; the counters are None where `/metrics` does not give them. Never raises."""
    return await look_with(endpoint, read_counters)


def read_counters(text: bytes) -> Probe:
    """A ready replica's probe out of the text of `/metrics`."""
    samples = read_samples(text, _NAMES)
    progress = [samples[name] for name in _PROGRESS if name in samples]
    return Probe(
        ready=True,
        running=_count(samples.get(_RUNNING)),
        waiting=_count(samples.get(_WAITING)),
        progressed=sum(progress) if progress else None,
    )


def _count(sample: float | None) -> int | None:
    return None if sample is None else int(sample)
