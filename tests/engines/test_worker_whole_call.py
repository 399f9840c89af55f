"""Pipelines that are not taken apart: whole calls, grouped by what must be alike, and honest about it."""

import threading
from pathlib import Path

import numpy
import pytest
import torch

from engines.diffusers.jobs import Cancelled, Failed, FailureKind, Finished, JobEvent, Stepped
from engines.diffusers.memory import HostMemory
from engines.diffusers.options import EngineOptions
from engines.diffusers.pipelines import Pipelines
from engines.diffusers.whole_call import CallBatcher
from engines.diffusers.worker import start_worker
from tests.engines import tiny
from tests.engines.batching import job

# Said by numpy of how diffusers' schedulers hand their tensors over.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

LONG = 120.0


class Calls:
    """A batcher over the tiny PixArt in the test's own thread; `wishes` are done at the next step boundary."""

    def __init__(self, max_rows: int = 8, memory: HostMemory | None = None) -> None:
        pipeline = tiny.pixart()
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline
        self.wishes: list[str] = []
        self.events: dict[str, list[JobEvent]] = {}
        self.batcher = CallBatcher(
            Pipelines(pipeline, None, None), memory or HostMemory(None), max_rows, None, self._boundary
        )

    def add(self, name: str, **changed: object) -> None:
        self.events[name] = []
        self.batcher.add(job(name, **changed), self.events[name].append)

    def finish(self) -> None:
        with torch.no_grad():
            while self.batcher.advance():
                pass

    def batches(self, name: str) -> list[int]:
        return [event.batch for event in self.events[name] if isinstance(event, Stepped)]

    def _boundary(self) -> None:
        while self.wishes:
            self.batcher.cancel(self.wishes.pop())


def _pixels(event: JobEvent) -> "numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.int16]]":
    assert isinstance(event, Finished), event
    return numpy.asarray(event.image, dtype=numpy.int16)


def test_jobs_alike_share_a_call_and_others_do_not() -> None:
    """Same size, steps and guidance: one call. Another size or number of steps: another call. All as if alone."""
    together, alone = Calls(), Calls()
    for number in range(3):
        together.add(f"alike {number}")
    together.add("longer", steps=6)
    together.add("wider", width=128)
    together.finish()
    assert together.batches("alike 0") == [3] * 4
    assert together.batches("longer") == [1] * 6
    assert together.batches("wider") == [1] * 4
    for number in range(3):
        alone.add(f"alike {number}")
        alone.finish()
        name = f"alike {number}"
        assert abs(_pixels(alone.events[name][-1]) - _pixels(together.events[name][-1])).max() <= 1


def test_one_cancelled_job_leaves_the_others_their_call() -> None:
    """It ends at the next step; the call goes on and the other job gets its image."""
    calls = Calls()
    calls.add("goes")
    calls.add("stays")
    calls.wishes.append("goes")
    calls.finish()
    assert [type(event) for event in calls.events["goes"]] == [Stepped, Cancelled]
    assert isinstance(calls.events["stays"][-1], Finished)
    assert calls.batcher.tally.images_total == 1


def test_a_call_that_nobody_wants_stops() -> None:
    """With its last job cancelled no further step is made, and the pipeline draws the next one as ever."""
    calls = Calls()
    calls.add("goes", steps=50)
    calls.wishes.append("goes")
    calls.finish()
    assert calls.batcher.tally.steps_total == 1
    calls.add("next")
    calls.finish()
    assert isinstance(calls.events["next"][-1], Finished)


def test_higher_priority_is_called_first() -> None:
    """Of two waiting jobs that cannot share, the more urgent one is drawn first."""
    calls = Calls(max_rows=1)
    order: list[str] = []
    for name, priority in (("patient", 10), ("urgent", 90)):
        calls.batcher.add(
            job(name, priority=priority, steps=1),
            lambda event, name=name: order.append(name) if isinstance(event, Finished) else None,
        )
    calls.finish()
    assert order == ["urgent", "patient"]


def test_too_much_memory_halves_the_call() -> None:
    """Four jobs that do not fit together are drawn two by two; one that never fits fails alone."""
    calls = Calls(memory=HostMemory(6))
    for number in range(4):
        calls.add(f"small {number}", steps=2)
    calls.add("big", steps=2, width=512, height=512)
    calls.finish()
    assert all(isinstance(calls.events[f"small {number}"][-1], Finished) for number in range(4))
    assert calls.batches("small 0")[-1] == 2
    failed = calls.events["big"][-1]
    assert isinstance(failed, Failed)
    assert failed.kind is FailureKind.OUT_OF_MEMORY


def test_a_folder_of_such_a_model_says_so(tmp_path: Path) -> None:
    """The worker of a PixArt folder batches by call, says why, and draws."""
    tiny.pixart().save_pretrained(tmp_path)
    worker = start_worker(tmp_path, EngineOptions(threads=1))
    try:
        assert worker.facts.batching == "call"
        assert "PixArtSigmaPipeline" in worker.facts.batching_reason
        assert not worker.facts.takes_image
        over, ends = threading.Event(), []

        def on_event(event: JobEvent) -> None:
            if not isinstance(event, Stepped):
                ends.append(event)
                over.set()

        worker.submit(job("drawn", steps=2, scheduler="euler"), on_event)
        assert over.wait(LONG)
        assert isinstance(ends[0], Finished)
    finally:
        worker.close()


@pytest.mark.parametrize(("batching", "reason"), [("call", "options"), ("none", "one image at a time")])
def test_batching_can_be_configured_away(tmp_path: Path, batching: str, reason: str) -> None:
    """A pipeline that could be taken apart is called whole when the options say so."""
    tiny.sd().save_pretrained(tmp_path)
    worker = start_worker(tmp_path, EngineOptions.model_validate({"batching": batching}))
    try:
        assert worker.facts.batching == "call"
        assert reason in worker.facts.batching_reason
    finally:
        worker.close()
