"""The Prometheus page: the worker's counters read at each scrape, and how long requests took."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engines.diffusers.jobs import PipelineWorker, WorkerLoad

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)


class Metrics:
    """One registry for each engine."""

    def __init__(self, worker: PipelineWorker | None) -> None:
        self._registry = CollectorRegistry()
        if worker is not None:
            self._registry.register(_WorkerLoads(worker))
        self._ended = Counter("diffusers_requests", "Requests that ended", ("kind", "outcome"), registry=self._registry)
        self._seconds = self._histogram("diffusers_request_seconds", "From the first byte to the answer")
        self._first_step = self._histogram("diffusers_first_step_seconds", "Until the first step of a request was over")
        self._encoding = self._histogram("diffusers_encoding_seconds", "To encode one picture")

    def watch_kept(self, kept_mib: Callable[[], float]) -> None:
        """Show how much memory the kept results take."""
        gauge = Gauge("diffusers_kept_results_mib", "Memory of kept results", registry=self._registry)
        gauge.set_function(kept_mib)

    def _histogram(self, name: str, meaning: str) -> Histogram:
        return Histogram(name, meaning, ("kind",), buckets=_SECONDS, registry=self._registry)

    def ended(self, kind: str, outcome: str, seconds: float) -> None:
        """`outcome`: finished, failed or cancelled."""
        self._ended.labels(kind, outcome).inc()
        self._seconds.labels(kind).observe(seconds)

    def first_step(self, kind: str, seconds: float) -> None:
        self._first_step.labels(kind).observe(seconds)

    def encoded(self, kind: str, seconds: float) -> None:
        self._encoding.labels(kind).observe(seconds)

    def page(self) -> bytes:
        return generate_latest(self._registry)


class _WorkerLoads(Collector):
    def __init__(self, worker: PipelineWorker) -> None:
        self._worker = worker

    def collect(self) -> Iterable[Metric]:
        load = self._worker.load()
        for name, meaning, number in _gauges(load):
            yield GaugeMetricFamily(name, meaning, value=number)
        for name, meaning, number in _counters(load):
            yield CounterMetricFamily(name, meaning, value=number)

    def describe(self) -> Iterable[Metric]:
        return ()


def _gauges(load: WorkerLoad) -> Iterable[tuple[str, str, float]]:
    yield "diffusers_requests_running", "Images in the denoising batch", load.running
    yield "diffusers_requests_waiting", "Images that wait for a place in it", load.waiting
    yield "diffusers_memory_mib", "Device memory held by the pipeline", load.memory_mib
    yield "diffusers_asleep", "1 while the weights are in host memory", load.asleep
    yield "diffusers_alive", "1 while the pipeline's thread lives", load.alive


def _counters(load: WorkerLoad) -> Iterable[tuple[str, str, float]]:
    yield "diffusers_steps", "Calls of the denoiser", load.steps_total
    yield "diffusers_rows", "Rows in these calls", load.rows_total
    yield "diffusers_images", "Images drawn", load.images_total
    yield "diffusers_displaced", "Images put aside for a higher priority", load.displaced_total
    yield "diffusers_out_of_memory", "Times that memory was short", load.out_of_memory_total
