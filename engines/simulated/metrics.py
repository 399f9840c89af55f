"""vLLM's Prometheus page, from the engine core's counters."""

from __future__ import annotations

from collections.abc import Mapping

from engines.simulated.histogram import Histogram
from engines.simulated.scheduler import Scheduler
from engines.simulated.script import Script

SLEEP_STATES = ("awake", "weights_offloaded", "discard_all")
_REASONS = ("stop", "length", "abort", "error", "repetition")


def render(scheduler: Scheduler, script: Script, model: str, sleep_state: str) -> bytes:
    """The whole page; `sleep_state` is one of `SLEEP_STATES`."""
    page = _Page(f'engine="0",model_name="{model}"')
    running, waiting = scheduler.running, scheduler.waiting
    page.gauge("vllm:num_requests_running", {"": running})
    page.gauge("vllm:num_requests_waiting", {"": waiting})
    page.gauge("vllm:num_requests_waiting_by_reason", {'reason="capacity"': waiting, 'reason="deferred"': 0})
    page.gauge("vllm:kv_cache_usage_perc", {"": running / script.max_num_seqs})
    page.gauge("vllm:engine_sleep_state", {f'sleep_state="{each}"': each == sleep_state for each in SLEEP_STATES})
    page.counter("vllm:num_preemptions_total", {"": 0})
    page.counter("vllm:prompt_tokens_total", {"": scheduler.prompt_tokens})
    page.counter("vllm:prompt_tokens_cached_total", {"": 0})
    page.counter("vllm:generation_tokens_total", {"": scheduler.generation_tokens})
    # like vLLM, this leaves out a request whose client went away
    finished = {f'finished_reason="{reason}"': scheduler.finished[reason] for reason in _REASONS}
    page.counter("vllm:request_success_total", finished)
    page.counter("vllm:prefix_cache_queries_total", {"": scheduler.prompt_tokens})
    page.counter("vllm:prefix_cache_hits_total", {"": 0})
    page.counter("vllm:admission_rejections_total", {'reason="max_num_queued_reqs"': scheduler.rejected})
    page.histogram("vllm:time_to_first_token_seconds", scheduler.first_token_seconds)
    page.histogram("vllm:request_queue_time_seconds", scheduler.queue_seconds)
    page.histogram("vllm:e2e_request_latency_seconds", scheduler.total_seconds)
    return page.encoded()


class _Page:
    def __init__(self, labels: str) -> None:
        self._labels = labels
        self._lines: list[str] = []

    def gauge(self, name: str, values: Mapping[str, float]) -> None:
        self._family("gauge", name, values)

    def counter(self, name: str, values: Mapping[str, float]) -> None:
        self._family("counter", name, values)

    def histogram(self, name: str, histogram: Histogram) -> None:
        self._lines.append(f"# TYPE {name} histogram")
        for bound, count in histogram.buckets():
            self._sample(f"{name}_bucket", f'le="{bound}"', count)
        self._sample(f"{name}_count", "", histogram.count)
        self._sample(f"{name}_sum", "", histogram.sum_seconds)

    def encoded(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()

    def _family(self, kind: str, name: str, values: Mapping[str, float]) -> None:
        self._lines.append(f"# TYPE {name} {kind}")
        for labels, value in values.items():
            self._sample(name, labels, value)

    def _sample(self, name: str, labels: str, value: float) -> None:
        joined = f"{self._labels},{labels}" if labels else self._labels
        self._lines.append(f"{name}{{{joined}}} {float(value)}")
