"""The service's own counters, cheap enough for the warm path: children are looked up once per model.

Counts and times only; texts and keys never reach a label. The registry is this
object's own, not the library's global one.
"""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from controlplane.core.model import Outcome

_WAITS = (0.001, 0.01, 0.1, 0.5, 1, 5, 15, 60, 180, 600)
_SPEEDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)


@dataclass(frozen=True, slots=True)
class ModelCounters:
    """One model's children, ready to be incremented."""

    outcomes: dict[Outcome, Counter]
    prompt_tokens: Counter
    completion_tokens: Counter
    wait_seconds: Histogram
    first_byte_seconds: Histogram


class Telemetry:
    """Everything that `/metrics` shows of the control plane itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        name = "inference_manager"
        self._requests = self._counter(f"{name}_requests", "Finished requests", ("model", "outcome"))
        self._prompt = self._counter(f"{name}_prompt_tokens", "Prompt tokens as engines reported them", ("model",))
        self._completion = self._counter(f"{name}_completion_tokens", "Completion tokens", ("model",))
        self._wait = Histogram(
            f"{name}_wait_seconds", "From accepted to a slot", ("model",), buckets=_WAITS, registry=self.registry
        )
        self._first = Histogram(
            f"{name}_first_byte_seconds", "From slot to first byte", ("model",), buckets=_SPEEDS, registry=self.registry
        )
        self.rejected = self._counter(f"{name}_rejected", "Calls refused at the door", ("code",))
        self.replica_moves = self._counter(f"{name}_replica_moves", "Replica state changes", ("model", "state"))
        self.steps = Counter(f"{name}_loop_steps", "Passes of the loop", registry=self.registry)
        self.waiting = self._gauge(f"{name}_waiting", "Requests waiting", ("model",))
        self.running = self._gauge(f"{name}_running", "Leases held", ("model",))
        self.booked = self._gauge(f"{name}_device_booked_mib", "Reserved device memory", ("device",))
        self.budget = self._gauge(f"{name}_device_budget_mib", "Device memory that may be handed out", ("device",))
        self.measured = self._gauge(f"{name}_device_measured_mib", "Measured use by our replicas", ("device",))
        self.journal_dropped = Gauge(
            f"{name}_journal_dropped", "Journal rows given up while the disk was away", registry=self.registry
        )
        self._models: dict[str, ModelCounters] = {}

    def model(self, model_id: str) -> ModelCounters:
        found = self._models.get(model_id)
        if found is None:
            found = self._models[model_id] = ModelCounters(
                outcomes={outcome: self._requests.labels(model_id, outcome.value) for outcome in Outcome},
                prompt_tokens=self._prompt.labels(model_id),
                completion_tokens=self._completion.labels(model_id),
                wait_seconds=self._wait.labels(model_id),
                first_byte_seconds=self._first.labels(model_id),
            )
        return found

    def exposition(self) -> bytes:
        """Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)
