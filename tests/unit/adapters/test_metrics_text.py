"""Reading named samples out of Prometheus text."""

from hypothesis import given
from hypothesis import strategies as st

from adapters.metrics_text import read_samples

PAGE = b"""# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a model, {with} braces"} 2.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 5.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 3.0
vllm:num_requests_running_by_reason{engine="0"} 77.0
bare_gauge 1.5e3
with_time{a="b"} 4 1795426584000
broken{a="b"} many
missing_value
not_a_number NaN
"""


def test_samples_are_summed_over_their_labels() -> None:
    """A name's value is the sum over its label sets, and no other name's is in it."""
    found = read_samples(PAGE, {b"vllm:num_requests_running", b"vllm:request_success_total"})
    assert found == {b"vllm:num_requests_running": 2.0, b"vllm:request_success_total": 8.0}


def test_lines_without_labels_and_with_a_time_are_read() -> None:
    """Labels and timestamps are optional in the format."""
    assert read_samples(PAGE, {b"bare_gauge", b"with_time"}) == {b"bare_gauge": 1500.0, b"with_time": 4.0}


def test_what_cannot_be_read_is_not_there() -> None:
    """A broken line, a missing value, NaN and an unknown name give no sample, and raise nothing."""
    assert read_samples(PAGE, {b"broken", b"missing_value", b"not_a_number", b"unknown"}) == {}


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(text: bytes) -> None:
    """Whatever an engine prints, reading it never raises."""
    read_samples(text + b"\nx" + text, {b"x", b""})
