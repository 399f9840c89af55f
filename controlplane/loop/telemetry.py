"""The service's own metrics: what happens per call is tallied by model, the rest counted as it happens.

Counts and times only; texts and keys never reach a label. The registry is this
object's own, not the library's global one.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import generate_latest

from controlplane.loop.tallies import ModelTally, Tallies


class Telemetry:
    """Everything that `/metrics` shows of the control plane itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        name = "inference_manager"
        self._tallies = Tallies(name)
        self.registry.register(self._tallies)
        self.rejected = self._counter(f"{name}_rejected", "Calls refused at the door", ("code",))
        self.callbacks = self._counter(f"{name}_callbacks", "Tries at delivering callbacks", ("ending",))
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

    def model(self, model_id: str) -> ModelTally:
        return self._tallies.of(model_id)

    def exposition(self) -> bytes:
        """Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)
