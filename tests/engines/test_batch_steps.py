"""Step batching on a Stable-Diffusion-class pipeline: an image depends on its own job and on nobody else's."""

import random
from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from engines.diffusers import schedulers
from engines.diffusers.encodings import Encodings
from engines.diffusers.jobs import Cancelled, Failed, FailureKind, Finished, Preview, Stepped
from engines.diffusers.pipelines import Pipelines
from tests.engines import tiny
from tests.engines.batching import Studio, apart, job, plain, three_uses

# Said by numpy of how diffusers' Heun, KDPM2 and DEIS schedulers hand their tensors over.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

NOISE = 1e-4
SCHEDULERS = (
    "ddim",
    "ddpm",
    "deis",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "euler",
    "euler_a",
    "heun",
    "kdpm2",
    "kdpm2_a",
    "lcm",
    "pndm",
    "unipc",
)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pipelines() -> Pipelines:
    return three_uses(tiny.sd())


@pytest.fixture
def red() -> Image.Image:
    return Image.new("RGB", (64, 64), (200, 30, 30))


def test_every_scheduler_that_we_name_is_tried_here(pipelines: Pipelines) -> None:
    """The list below is the list that the pipeline offers."""
    assert schedulers.names(pipelines.draw) == SCHEDULERS


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_an_image_does_not_depend_on_its_neighbours(pipelines: Pipelines, scheduler: str) -> None:
    """Alone or among seven random neighbours that join and leave, it is the plain pipeline's, to 1e-4 in latents."""
    chance = random.Random(scheduler)
    ours = job("ours", steps=7, guidance=4.5, scheduler=scheduler, negative_prompt="bad")
    neighbours = [
        job(
            f"neighbour {number}",
            steps=chance.randint(1, 6),
            guidance=chance.choice([1.0, 2.0, 7.5]),
            scheduler=chance.choice(SCHEDULERS),
            seed=chance.randint(0, 1000),
        )
        for number in range(7)
    ]
    expected = plain(pipelines, ours)
    (alone,) = Studio(pipelines).draw(ours)
    studio = Studio(pipelines)
    for each in (*neighbours[:3], ours, *neighbours[3:]):
        studio.add(each)
        if chance.random() < 0.6:
            studio.batcher.advance()
    studio.finish()
    assert apart(alone, expected) <= NOISE
    assert apart(studio.drawn("ours"), expected) <= NOISE
    assert max(studio.batches("ours")) > 2


def test_seven_neighbours_are_right_too(pipelines: Pipelines) -> None:
    """In one batch of eight different jobs, every one is the plain pipeline's."""
    jobs = [
        job(f"job {number}", steps=2 + number, guidance=1.0 + number % 3, scheduler=SCHEDULERS[number])
        for number in range(8)
    ]
    drawn = Studio(pipelines).draw(*jobs)
    assert max(apart(got, plain(pipelines, asked)) for got, asked in zip(drawn, jobs, strict=True)) <= NOISE


def test_images_and_masks_share_calls_with_plain_drawing(pipelines: Pipelines, red: Image.Image) -> None:
    """Image to image and inpainting are the plain pipelines', in the same denoiser calls as drawing from text."""
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    jobs = [
        job("draw", steps=6),
        job("edit", steps=6, image=red, strength=0.7),
        job("inpaint", steps=6, image=red, mask=mask, strength=0.9),
    ]
    studio = Studio(pipelines)
    drawn = studio.draw(*jobs)
    assert max(apart(got, plain(pipelines, asked)) for got, asked in zip(drawn, jobs, strict=True)) <= NOISE
    assert studio.batches("edit")[0] == 3


def test_sizes_are_kept_apart(pipelines: Pipelines) -> None:
    """Jobs of two sizes never share a call, and both are right."""
    jobs = [job("small"), job("wide", width=96), job("small too", steps=5), job("wide too", width=96)]
    studio = Studio(pipelines)
    drawn = studio.draw(*jobs)
    assert max(apart(got, plain(pipelines, asked)) for got, asked in zip(drawn, jobs, strict=True)) <= NOISE
    assert {batch for asked in jobs for batch in studio.batches(asked.job_id)} == {1, 2}


def test_a_cancelled_job_ends_at_the_next_step(pipelines: Pipelines) -> None:
    """It reports no step after the cancellation, its neighbour goes on unharmed, and its row is gone from the call."""
    stays, goes = job("stays", steps=6), job("goes", steps=6)
    studio = Studio(pipelines)
    studio.add(stays)
    studio.add(goes)
    studio.batcher.advance()
    studio.batcher.advance()
    studio.batcher.cancel("goes")
    assert [type(event) for event in studio.events["goes"]] == [Stepped, Stepped, Cancelled]
    studio.finish()
    assert studio.batches("stays") == [2, 2, 1, 1, 1, 1]
    assert apart(studio.drawn("stays"), plain(pipelines, stays)) <= NOISE
    assert studio.batcher.running == studio.batcher.waiting == 0


def test_a_job_that_never_started_can_be_cancelled(pipelines: Pipelines) -> None:
    """A waiting job ends with Cancelled alone; an unknown one is no error."""
    studio = Studio(pipelines)
    studio.add(job("waits"))
    studio.batcher.cancel("waits")
    studio.batcher.cancel("nobody")
    assert studio.events["waits"] == [Cancelled()]
    assert not studio.batcher.advance()


def test_a_higher_priority_displaces_and_the_displaced_continues(pipelines: Pipelines) -> None:
    """With one row per call, the urgent job takes over at once; the other goes on where it was, to the same image."""
    patient, urgent = job("patient", steps=6, priority=10), job("urgent", steps=3, priority=90)
    studio = Studio(pipelines, max_rows=1)
    studio.add(patient)
    studio.batcher.advance()
    studio.batcher.advance()
    studio.add(urgent)
    for _ in range(3):
        studio.batcher.advance()
    assert isinstance(studio.end("urgent"), Finished)
    assert len(studio.batches("patient")) == 2
    studio.finish()
    assert studio.batcher.tally.displaced_total == 1
    assert apart(studio.drawn("patient"), plain(pipelines, patient)) <= NOISE
    assert apart(studio.drawn("urgent"), plain(pipelines, urgent)) <= NOISE


def test_a_job_joins_at_the_next_step(pipelines: Pipelines) -> None:
    """A job that comes while others run is in the very next call."""
    studio = Studio(pipelines)
    studio.add(job("first", steps=9))
    for _ in range(3):
        studio.batcher.advance()
    studio.add(job("second", steps=2))
    studio.batcher.advance()
    assert len(studio.batches("second")) == 1
    studio.finish()
    assert studio.batches("first") == [1, 1, 1, 2, 2, 1, 1, 1, 1]


def test_partial_images_come_evenly_spaced(pipelines: Pipelines) -> None:
    """Three previews of eight steps come after two, four and six, numbered, in full size."""
    studio = Studio(pipelines)
    studio.draw(job("shown", steps=8, preview_count=3))
    shown = [
        (event.index, index - event.index)
        for index, event in enumerate(studio.events["shown"])
        if isinstance(event, Preview)
    ]
    assert shown == [(0, 2), (1, 4), (2, 6)]
    assert all(event.image.size == (64, 64) for event in studio.events["shown"] if isinstance(event, Preview))


def test_encodings_are_remembered(pipelines: Pipelines) -> None:
    """The second job of a prompt encodes nothing and draws the same; another prompt is another encoding."""
    studio = Studio(pipelines, encodings=Encodings(2))
    first, second = studio.draw(job("one", prompt="same", seed=1), job("two", prompt="same", seed=1))
    assert studio.encodings.hits_total == 1
    assert apart(first, second) == 0.0
    (other,) = studio.draw(job("three", prompt="not the same", seed=1))
    assert studio.encodings.hits_total == 1
    assert apart(first, other) > NOISE


def test_encodings_forget_the_least_recently_used(pipelines: Pipelines) -> None:
    """With room for two, a third prompt puts out the one that was not used since."""
    studio = Studio(pipelines, encodings=Encodings(2))
    for prompt in ("a", "b", "a", "c", "a"):
        studio.draw(job(f"draws {prompt} {len(studio.events)}", prompt=prompt, steps=1))
    assert studio.encodings.hits_total == 2
    studio.draw(job("draws b again", prompt="b", steps=1))
    assert studio.encodings.hits_total == 2


@pytest.mark.parametrize(
    ("wrong", "param"),
    [({"scheduler": "no_such"}, "scheduler"), ({"strength": 0.1}, "strength"), ({"width": 63}, "size")],
)
def test_what_cannot_be_drawn_is_the_callers_fault(
    pipelines: Pipelines, red: Image.Image, wrong: dict[str, object], param: str | None
) -> None:
    """A wrong field fails that job alone, as invalid, naming the field; its neighbour is drawn."""
    studio = Studio(pipelines)
    studio.add(job("wrong", **({"image": red} if "strength" in wrong else {}), **wrong))
    studio.add(job("right"))
    studio.finish()
    failed = studio.end("wrong")
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.param) == (FailureKind.INVALID, param)
    assert isinstance(studio.end("right"), Finished)
