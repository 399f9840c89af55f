"""The cold-start benchmark's arithmetic: phases follow each other without a gap, and none is made up."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.registry import make_adapters
from benchmarks.cold_phases import Phases, Recorded, middle, phases

VLLM = [
    (1.0, "non-default args: {}"),
    (3.0, "Starting to load model smol..."),
    (4.0, "Loading safetensors checkpoint shards: 100% Completed"),
    (4.5, "a line that says nothing"),
    (5.0, "Loading weights took 1.00 seconds"),
    (6.0, "Using cache directory: /somewhere"),
    (8.0, "Starting vLLM server on unix:/a"),
    (8.1, "Application startup complete."),
]
DIFFUSERS = [
    (2.0, "INFO 11-23 10:00:00 diffusers_engine: Loading pipeline /models/a"),
    (6.0, "INFO 11-23 10:00:04 diffusers_engine: Serving on unix:/a"),
]


@pytest.mark.parametrize(
    ("engine", "lines", "expected"),
    [
        ("vllm", VLLM, Phases(create=0.5, up=2.5, weights=2.0, compile=3.0, ready=0.5, answer=9.0)),
        ("diffusers", DIFFUSERS, Phases(create=0.5, up=1.5, weights=4.0, compile=0.0, ready=2.5, answer=9.0)),
        ("vllm", [], Phases(create=0.5, up=8.0, weights=0.0, compile=0.0, ready=0.0, answer=9.0)),
    ],
    ids=["every phase", "no compiling", "not a word"],
)
def test_a_start_is_cut_where_its_engine_says(engine: str, lines: list[tuple[float, str]], expected: Phases) -> None:
    """By the words that the service itself shows; what an engine does not tell is part of what it was doing."""
    recorded = Recorded(decided=0.0, running=0.5, lines=lines, ready=8.5, answer_seconds=9.0)
    assert phases(recorded, make_adapters()[engine].cold_phase) == expected


@given(st.lists(st.sampled_from(VLLM + DIFFUSERS).map(lambda line: line[1]), max_size=12), st.sampled_from(["vllm"]))
def test_phases_add_up_to_the_start(lines: list[str], engine: str) -> None:
    """Whatever is logged in whatever order: none is negative, and together they are the time from deciding to ready."""
    stamped = [(1.0 + number, line) for number, line in enumerate(lines)]
    recorded = Recorded(0.0, 1.0, stamped, 20.0, 21.0)
    found = phases(recorded, make_adapters()[engine].cold_phase)
    assert min(found.create, found.up, found.weights, found.compile, found.ready) >= 0
    assert found.whole == pytest.approx(20.0)


def test_each_phase_has_its_own_median() -> None:
    """One slow phase in one round moves nothing else."""
    starts = [Phases(1, 2, 3, 4, 5, 6), Phases(9, 2, 3, 4, 5, 6), Phases(1, 2, 3, 9, 5, 6)]
    assert middle(starts, statistics.median) == Phases(1, 2, 3, 4, 5, 6)
