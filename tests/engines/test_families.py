"""Every class of denoiser that is taken apart: tiny pipelines, drawn together, against their own plain calls."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from PIL import Image

from engines.diffusers import schedulers
from engines.diffusers.families import family_of
from engines.diffusers.jobs import ImageJob, Preview
from engines.diffusers.pipelines import Pipelines
from tests.engines import tiny
from tests.engines.batching import Studio, apart, job, plain, three_uses

NOISE = 1e-4


@dataclass(frozen=True)
class Kind:
    """A pipeline, and how its own call names guidance and its absence."""

    name: str
    guided: str = "guidance_scale"
    always: dict[str, Any] = field(default_factory=dict)

    def plain(self, pipelines: Pipelines, asked: ImageJob) -> torch.Tensor:
        negative = asked.negative_prompt or self.always.get("negative_prompt")
        return plain(pipelines, asked, **(self.always | {self.guided: asked.guidance, "negative_prompt": negative}))


KINDS = (
    Kind("sd"),
    Kind("sdxl"),
    Kind("sd3"),
    Kind("flux"),
    Kind("qwen_image", "true_cfg_scale", {"guidance_scale": None, "negative_prompt": " "}),
    Kind("z_image"),
)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    assert isinstance(request.param, Kind)
    return request.param


@pytest.fixture(scope="module")
def pipelines(kind: Kind) -> Pipelines:
    return three_uses(getattr(tiny, kind.name)())


@pytest.fixture
def picture() -> Image.Image:
    picture = Image.new("RGB", (64, 64), (20, 90, 200))
    picture.paste((250, 240, 30), (20, 20, 44, 44))
    return picture


def test_jobs_that_join_and_leave_are_the_pipelines_own(kind: Kind, pipelines: Pipelines) -> None:
    """Eight jobs of different prompts, steps and guidance, joining one by one, each equal their own plain call."""
    chance = random.Random(kind.name)
    jobs = [
        job(
            f"job {number}",
            prompt="a picture of " + "very " * chance.randint(0, 3) + "much",
            negative_prompt=chance.choice(["", "ugly"]) if kind.name != "flux" else "",
            steps=chance.randint(2, 6),
            guidance=chance.choice([1.0, 2.5, 5.0]),
            seed=chance.randint(0, 1000),
        )
        for number in range(8)
    ]
    studio = Studio(pipelines)
    for asked in jobs:
        studio.add(asked)
        if chance.random() < 0.5:
            studio.batcher.advance()
    studio.finish()
    differences = [apart(studio.drawn(asked.job_id), kind.plain(pipelines, asked)) for asked in jobs]
    assert max(differences) <= NOISE
    assert max(batch for asked in jobs for batch in studio.batches(asked.job_id)) >= 3


def test_images_and_masks_too(kind: Kind, pipelines: Pipelines, picture: Image.Image) -> None:
    """Image to image and inpainting go together with drawing, each as its plain pipeline draws it."""
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    jobs = [
        job("draw", steps=5),
        job("edit", steps=5, image=picture, strength=0.7),
        job("inpaint", steps=5, image=picture, mask=mask, strength=0.9),
    ]
    drawn = Studio(pipelines).draw(*jobs)
    assert max(apart(got, kind.plain(pipelines, asked)) for got, asked in zip(drawn, jobs, strict=True)) <= NOISE


def test_two_sizes_at_once(kind: Kind, pipelines: Pipelines) -> None:
    """Each size comes out as alone; they share calls only where the denoiser itself mixes sizes."""
    jobs = [job("square"), job("wide", width=96), job("tall", height=96)]
    studio = Studio(pipelines)
    drawn = studio.draw(*jobs)
    assert max(apart(got, kind.plain(pipelines, asked)) for got, asked in zip(drawn, jobs, strict=True)) <= NOISE
    together = max(batch for asked in jobs for batch in studio.batches(asked.job_id))
    assert together == (3 if kind.name == "z_image" else 1)


def test_the_last_partial_image_nears_the_image(kind: Kind, pipelines: Pipelines) -> None:
    """A preview is decoded as the pipeline decodes: of the same latents it would be the image itself."""
    studio = Studio(pipelines)
    studio.draw(job("shown", steps=4, preview_count=3))
    shown = [event.image for event in studio.events["shown"] if isinstance(event, Preview)]
    assert [image.size for image in shown] == [(64, 64)] * 3


@pytest.mark.parametrize("name", ["flow_match_euler", "flow_match_heun"])
def test_flow_schedulers(name: str) -> None:
    """Stable Diffusion 3 with each scheduler that it can use, three jobs together."""
    pipelines = three_uses(tiny.sd3())
    assert name in schedulers.names(pipelines.draw)
    jobs = [job(f"job {number}", scheduler=name, steps=2 + number) for number in range(3)]
    drawn = Studio(pipelines).draw(*jobs)
    assert max(apart(got, plain(pipelines, asked)) for got, asked in zip(drawn, jobs, strict=True)) <= NOISE


def test_latent_consistency() -> None:
    """Guidance is an embedding there, one per row, and every step draws new noise from the job's own seed."""
    pipeline = tiny.lcm()
    pipeline.set_progress_bar_config(disable=True)
    pipelines = Pipelines(pipeline, None, None)
    jobs = [job(f"job {number}", steps=2 + number, guidance=2.0 + number) for number in range(4)]
    studio = Studio(pipelines)
    drawn = studio.draw(*jobs)
    assert max(apart(got, plain(pipelines, asked)) for got, asked in zip(drawn, jobs, strict=True)) <= NOISE
    assert studio.batches("job 0") == [4, 4]


def test_half_precision(kind: Kind) -> None:
    """In bfloat16 jobs go together too, partial images and edits included, near to what they are alone."""
    pipelines = three_uses(getattr(tiny, kind.name)().to(torch.bfloat16))
    picture = Image.new("RGB", (64, 64), (250, 240, 30))
    jobs = [
        job("draw", preview_count=2),
        job("other", steps=3, guidance=1.0),
        job("edit", image=picture, strength=0.8),
    ]
    for asked, got in zip(jobs, Studio(pipelines).draw(*jobs), strict=True):
        (alone,) = Studio(pipelines).draw(asked)
        assert apart(got, alone) <= 0.05 * float(alone.abs().max())


def test_what_is_not_known_is_not_taken_apart() -> None:
    """A pipeline of another class has no family."""
    assert family_of("PixArtSigmaPipeline") is None
