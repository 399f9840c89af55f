"""What the server relies on in a `PipelineWorker`: the real one and the painter of these tests keep one contract."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engines.diffusers.jobs import (
    Cancelled,
    Failed,
    Finished,
    ImageJob,
    JobEvent,
    PipelineWorker,
    Preview,
    Stepped,
)
from engines.diffusers.options import EngineOptions
from engines.diffusers.worker import start_worker
from tests.engines import tiny
from tests.engines.painter import start_painter

Start = Callable[..., PipelineWorker]
LONG = 900  # as good as endless: a cancelled job never gets there
LAST = (Finished, Failed, Cancelled)


class Heard:
    """What one job reported, and from which thread."""

    def __init__(self) -> None:
        self.events: list[JobEvent] = []
        self.threads: set[int] = set()
        self._changed = threading.Condition()

    def __call__(self, event: JobEvent) -> None:
        with self._changed:
            self.events.append(event)
            self.threads.add(threading.get_ident())
            self._changed.notify_all()

    def until(self, kind: Any) -> Any:
        """The first event of this kind; waits for it."""
        with self._changed:
            found = self._changed.wait_for(lambda: [each for each in self.events if isinstance(each, kind)], 60)
            assert found, self.events
            return found[0]

    def until_over(self) -> JobEvent:
        last: JobEvent = self.until(LAST)
        return last


def job(job_id: str = "job/0", **changes: Any) -> ImageJob:
    usual: dict[str, Any] = {
        "priority": 50, "prompt": "a red circle", "negative_prompt": "", "width": 64, "height": 64, "steps": 3,
        "guidance": 5.0, "scheduler": None, "seed": 7,
    }  # fmt: skip
    return ImageJob(job_id=job_id, **(usual | changes))


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny.sd().save_pretrained(path)
    return path


@pytest.fixture(params=["painter", "pipeline"])
def start(request: pytest.FixtureRequest, model_path: Path) -> Iterator[Start]:
    """Starts workers with given options, and closes them."""
    workers: list[PipelineWorker] = []

    def started(**options: Any) -> PipelineWorker:
        load = start_painter if request.param == "painter" else start_worker
        workers.append(load(model_path, EngineOptions(max_steps=LONG, threads=1, **options)))
        return workers[-1]

    yield started
    for worker in workers:
        worker.close()


def drawn(worker: PipelineWorker, asked: ImageJob) -> Image.Image:
    heard = Heard()
    worker.submit(asked, heard)
    last = heard.until_over()
    assert isinstance(last, Finished), last
    return last.image


def test_a_job_steps_and_finishes(start: Start) -> None:
    """Steps count up to their total, one last event ends it, and all of it comes from one other thread."""
    heard = Heard()
    start().submit(job(width=72, height=64, steps=4), heard)
    last = heard.until_over()
    steps = [each for each in heard.events if isinstance(each, Stepped)]
    assert [each.done for each in steps] == list(range(1, steps[-1].total + 1))
    assert all(each.batch >= 1 for each in steps)
    assert heard.events[-1] is last
    assert isinstance(last, Finished)
    assert (last.image.size, last.image.mode) == ((72, 64), "RGB")
    assert heard.threads.isdisjoint({threading.get_ident()})
    assert len(heard.threads) == 1


def test_a_seed_is_a_picture(start: Start) -> None:
    """The same job gives the same picture, another seed another one."""
    worker = start()
    first, again, other = (drawn(worker, job(seed=seed)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_previews_come_in_order_before_the_end(start: Start) -> None:
    """As many as asked for, numbered from 0, in the size of the picture."""
    heard = Heard()
    start().submit(job(steps=8, preview_count=3), heard)
    assert isinstance(heard.until_over(), Finished)
    previews = [each for each in heard.events if isinstance(each, Preview)]
    assert [each.index for each in previews] == [0, 1, 2]
    assert {each.image.size for each in previews} == {(64, 64)}


def test_edits(start: Start) -> None:
    """An image, and an image with a mask, are drawn in their size."""
    worker = start()
    image, mask = Image.new("RGB", (64, 64), "blue"), Image.new("L", (64, 64), 255)
    assert drawn(worker, job(image=image, strength=0.7)).size == (64, 64)
    assert drawn(worker, job(image=image, mask=mask, strength=1.0)).size == (64, 64)


def test_cancel_ends_a_running_job(start: Start) -> None:
    """The job ends as cancelled, its neighbour is drawn on; unknown and finished ids are harmless."""
    worker = start()
    unwanted, neighbour = Heard(), Heard()
    worker.submit(job("unwanted", steps=LONG), unwanted)
    unwanted.until(Stepped)
    worker.submit(job("neighbour", steps=20), neighbour)
    for name in ("unwanted", "unknown", "unwanted"):
        worker.cancel(name)
    assert isinstance(unwanted.until_over(), Cancelled)
    assert isinstance(neighbour.until_over(), Finished)
    worker.cancel("neighbour")
    assert isinstance(neighbour.events[-1], Finished)


def test_a_higher_priority_goes_first(start: Start) -> None:
    """With one place, a higher job that comes later ends first; the lower one then continues."""
    worker = start(max_batch_size=1)
    low, high = Heard(), Heard()
    worker.submit(job("low", priority=10, steps=LONG), low)
    low.until(Stepped)
    worker.submit(job("high", priority=90), high)
    assert isinstance(high.until_over(), Finished)
    assert not any(isinstance(each, LAST) for each in low.events)
    worker.cancel("low")
    assert isinstance(low.until_over(), Cancelled)


def test_asleep_nothing_is_drawn(start: Start) -> None:
    """A job given in sleep can be cancelled, or is drawn after waking; both moves are reported as done."""
    worker = start()
    worker.sleep().result(60)
    assert worker.load().asleep
    unwanted, waiting = Heard(), Heard()
    worker.submit(job("unwanted"), unwanted)
    worker.submit(job("waiting"), waiting)
    worker.cancel("unwanted")
    assert isinstance(unwanted.until_over(), Cancelled)
    assert len(unwanted.events) == 1
    assert waiting.events == []
    assert worker.load().waiting + worker.load().running == 1
    worker.wake_up().result(60)
    assert isinstance(waiting.until_over(), Finished)
    assert not worker.load().asleep


def test_a_running_job_survives_sleep(start: Start) -> None:
    """A job that was being drawn goes on where it was, and its picture is the one it would have been."""
    worker = start()
    whole = drawn(worker, job(steps=30))
    heard = Heard()
    worker.submit(job(steps=30), heard)
    heard.until(Stepped)
    worker.sleep().result(60)
    worker.wake_up().result(60)
    last = heard.until_over()
    assert isinstance(last, Finished)
    assert last.image == whole


def test_the_load_is_counted(start: Start) -> None:
    """Pictures, steps and rows add up; nothing runs or waits in the end."""
    worker = start()
    heard = [Heard() for _ in range(3)]
    for index, each in enumerate(heard):
        worker.submit(job(f"job/{index}"), each)
    for each in heard:
        each.until_over()
    worker.sleep().result(60)  # between two steps: what is shown is what there is
    load = worker.load()
    assert load.alive
    assert (load.running, load.waiting) == (0, 0)
    assert load.images_total == 3
    assert 0 < load.steps_total <= load.rows_total
    assert (load.displaced_total, load.out_of_memory_total) == (0, 0)


def test_closing_cancels_everything(start: Start) -> None:
    """Running and waiting jobs end as cancelled, so does a later one; the thread is gone, closing again is harmless."""
    worker = start(max_batch_size=1)
    running, waiting, late = Heard(), Heard(), Heard()
    worker.submit(job("running", steps=LONG), running)
    running.until(Stepped)
    worker.submit(job("waiting", priority=10), waiting)
    worker.close()
    worker.submit(job("late"), late)
    assert [type(each.until_over()) for each in (running, waiting, late)] == [Cancelled] * 3
    assert not worker.load().alive
    worker.close()


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers' DEIS gives numpy a tensor
def test_facts_fit_together(start: Start) -> None:
    """The default size is one that can be drawn, every known scheduler draws, and batching is explained."""
    worker = start()
    facts = worker.facts
    assert facts.default_width % facts.multiple_of == facts.default_height % facts.multiple_of == 0
    assert facts.batching in ("step", "call")
    assert facts.schedulers
    for name in facts.schedulers:
        assert drawn(worker, job(scheduler=name)).size == (64, 64)
