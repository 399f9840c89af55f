"""What is counted for every call, as plain numbers; turned into metrics only when somebody looks.

The library's own counters take a lock and a chain of calls each, and the event loop's thread is the only one here.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import INF, floatToGoString

from controlplane.core.model import Outcome

_WAITS = (0.001, 0.01, 0.1, 0.5, 1, 5, 15, 60, 180, 600)
_SPEEDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)


class Durations:
    """How many durations fell into each bucket, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, model_id: str) -> None:
        bounds = map(floatToGoString, (*self._bounds, INF))
        family.add_metric([model_id], list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)


@dataclass(slots=True)
class ModelTally:
    """One model's calls."""

    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    prompt_tokens: int = 0
    completion_tokens: int = 0
    wait_seconds: Durations = field(default_factory=lambda: Durations(_WAITS))
    first_byte_seconds: Durations = field(default_factory=lambda: Durations(_SPEEDS))


class Tallies(Collector):
    """The tallies of all models, as a registry collects them."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._models: dict[str, ModelTally] = {}

    def of(self, model_id: str) -> ModelTally:
        found = self._models.get(model_id)
        if found is None:
            found = self._models[model_id] = ModelTally()
        return found

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(f"{self._prefix}_requests", "Finished requests", labels=("model", "outcome"))
        prompt = self._counter("prompt_tokens", "Prompt tokens as engines reported them")
        completion = self._counter("completion_tokens", "Completion tokens")
        wait = self._histogram("wait_seconds", "From accepted to a slot")
        first = self._histogram("first_byte_seconds", "From slot to first byte")
        for model_id, tally in self._models.items():
            for outcome, count in tally.outcomes.items():
                requests.add_metric([model_id, outcome.value], count)
            prompt.add_metric([model_id], tally.prompt_tokens)
            completion.add_metric([model_id], tally.completion_tokens)
            tally.wait_seconds.add_to(wait, model_id)
            tally.first_byte_seconds.add_to(first, model_id)
        yield from (requests, prompt, completion, wait, first)

    def _counter(self, name: str, text: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"{self._prefix}_{name}", text, labels=("model",))

    def _histogram(self, name: str, text: str) -> HistogramMetricFamily:
        return HistogramMetricFamily(f"{self._prefix}_{name}", text, labels=("model",))
