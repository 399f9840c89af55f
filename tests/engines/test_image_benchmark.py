"""The benchmark of image batching measures what it says, on a real worker and on figures whose result is known."""

import re

import pytest

from benchmarks import image_batching
from benchmarks.image_batching import MODES, Extent, Subject, measure, table, workers
from benchmarks.image_load import Drawing, DrawingFailed, Studio, gaps

# diffusers' Euler scheduler hands tensors to numpy in a way that numpy will end.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def options(**more: object) -> object:
    """The command line's defaults, with these changed."""
    parsed = image_batching.options([])
    for name, value in more.items():
        setattr(parsed, name, value)
    return parsed


def test_every_way_to_batch_is_measured_in_one_run() -> None:
    """A short run of the real thing: a row for each load and mode, with ratios against one at a time."""
    extent = Extent(loads=(2.0,), clients=(2,), drawings=3, rounds=1)
    with workers(options(batch=2)) as found:
        rows = table(measure(found, Subject(64, 3, mixed=True).job, extent)).splitlines()[2:]

    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[:2] for row in cells] == [
        [load, name] for load in ("arriving, 2 x", "2 clients") for name in MODES.values()
    ]
    assert all(re.fullmatch(r"\d+\.\d+", cell) for row in cells for cell in row[2:])
    assert {row[3] for row in cells if row[1] == MODES["none"]} == {"1.00"}
    assert {row[10] for row in cells if row[1] == MODES["none"]} == {"1.0"}


def test_a_failed_drawing_makes_no_figure() -> None:
    """A size that the pipeline refuses ends the run instead of counting as fast."""
    with workers(options(batch=2)) as found, pytest.raises(DrawingFailed):
        Studio(found["step"], Subject(63, 3, mixed=False).job).clients(1, 2)


def test_admission_is_counted_in_steps() -> None:
    """Three seconds until the end of a first step of one second are two steps of waiting."""
    drawing = Drawing(asked_at=10.0, stepped_at=[13.0, 14.0, 15.0, 16.5])
    assert drawing.waited_steps == pytest.approx(2.0)


def test_arrivals_are_by_chance_and_the_same_again() -> None:
    """As many as asked for, at about the rate, the same for the same seed."""
    pauses = gaps(4.0, 2000, seed=1)
    assert pauses == gaps(4.0, 2000, seed=1)
    assert pauses != gaps(4.0, 2000, seed=2)
    assert sum(pauses) / len(pauses) == pytest.approx(0.25, rel=0.1)
