"""Tallies reach /metrics as counters and histograms in Prometheus' own terms."""

from prometheus_client.parser import text_string_to_metric_families

from controlplane.core.model import Outcome
from controlplane.loop.telemetry import Telemetry

NAME = "inference_manager"


def samples(telemetry: Telemetry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of the page, read as Prometheus would."""
    families = text_string_to_metric_families(telemetry.exposition().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def test_counts_are_shown_by_model_and_outcome() -> None:
    """What one model did is not added to another's."""
    telemetry = Telemetry()
    telemetry.model("a").outcomes[Outcome.SUCCEEDED] += 2
    telemetry.model("a").completion_tokens += 7
    telemetry.model("b").outcomes[Outcome.FAILED] += 1

    page = samples(telemetry)

    requests = f"{NAME}_requests_total"
    assert page[requests, frozenset({("model", "a"), ("outcome", "succeeded")})] == 2
    assert page[requests, frozenset({("model", "b"), ("outcome", "succeeded")})] == 0
    assert page[requests, frozenset({("model", "b"), ("outcome", "failed")})] == 1
    assert page[f"{NAME}_completion_tokens_total", frozenset({("model", "a")})] == 7


def test_a_duration_on_a_bound_belongs_below_it_and_buckets_add_up() -> None:
    """Buckets are cumulative and inclusive, the last one holds everything, and the sum is exact."""
    telemetry = Telemetry()
    for seconds in (0.0, 0.1, 0.11, 9999.0):
        telemetry.model("a").wait_seconds.observe(seconds)

    page = samples(telemetry)

    def below(bound: str) -> float:
        return page[f"{NAME}_wait_seconds_bucket", frozenset({("model", "a"), ("le", bound)})]

    assert (below("0.001"), below("0.1"), below("0.5"), below("600.0"), below("+Inf")) == (1, 2, 3, 3, 4)
    assert page[f"{NAME}_wait_seconds_count", frozenset({("model", "a")})] == 4
    assert page[f"{NAME}_wait_seconds_sum", frozenset({("model", "a")})] == 0.0 + 0.1 + 0.11 + 9999.0
