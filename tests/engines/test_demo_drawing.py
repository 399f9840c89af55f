"""shapes-draw, the drawing demo model: it draws what it is asked to, it is the model that its recipe names."""

import logging
import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, StableDiffusionPipeline
from PIL import Image, ImageChops, ImageStat

from engines.demo.evaluate_drawing import SCHEDULERS, SHAPES_DRAW, drawings, load, misses, random_scenes
from engines.demo.train_drawing import Lesson, Recipe, sums, trained_autoencoder, trained_pipeline
from engines.demo.train_drawing_layout import make_tokenizer, save
from engines.demo.train_drawing_loops import Course
from engines.demo.train_drawing_prompts import WORDS
from engines.demo.world import COLOURS, Place, Scene, all_scenes, draw, measure, random_place

# diffusers' schedulers hand torch's tensors to numpy's older protocol.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    torch.set_num_threads(1)
    return load()


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_loading_warns_about_nothing_and_gives_float32() -> None:
    """Neither diffusers nor transformers has anything to say about the folder, and half-precision files load whole."""
    heard = Lines()
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for logger in loggers:
        logger.addHandler(heard)
    try:
        loaded = load()
    finally:
        for logger in loggers:
            logger.removeHandler(heard)
    assert heard.lines == []
    assert {loaded.unet.dtype, loaded.vae.dtype, loaded.text_encoder.dtype} == {torch.float32}


def test_a_hundred_random_prompts_are_drawn_right(pipeline: StableDiffusionPipeline) -> None:
    """At least 95 of 100 drawings have the right colour, shape and background, and every drawing is 64 by 64."""
    scenes = random_scenes(100, seed=2026)
    images = list(drawings(pipeline, scenes, seed=0))
    assert {image.size for image in images} == {(64, 64)}
    wrong = misses(scenes, iter(images))
    assert len(wrong) <= 5, wrong


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_every_scheduler_draws_right(pipeline: StableDiffusionPipeline, name: str) -> None:
    """With any of the usual schedulers at least 38 of 40 drawings come out right."""
    other = StableDiffusionPipeline(**pipeline.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    other.scheduler = SCHEDULERS[name].from_config(pipeline.scheduler.config)
    scenes = random_scenes(40, seed=7)
    wrong = misses(scenes, drawings(other, scenes, seed=500))
    assert len(wrong) <= 2, wrong


def test_a_drawing_is_redrawn_as_another_scene(pipeline: StableDiffusionPipeline) -> None:
    """Image to image at full strength follows another prompt; at little strength and with its own it stays close."""
    redraw = AutoPipelineForImage2Image.from_pipe(pipeline)
    redraw.set_progress_bar_config(disable=True)
    first, asked = Scene("red", "circle", "blue"), Scene("white", "square", "green")
    picture = draw(first, Place(32, 32, 17))

    def redrawn(scene: Scene, strength: float) -> Image.Image:
        generator = torch.Generator().manual_seed(3)
        return redraw(
            scene.prompt, picture, strength=strength, num_inference_steps=20, guidance_scale=3.0, generator=generator
        ).images[0]

    def difference(image: Image.Image) -> float:
        return sum(ImageStat.Stat(ImageChops.difference(image, picture)).mean) / 3

    full, little = redrawn(asked, 1.0), redrawn(first, 0.1)
    assert (measure(full), measure(little)) == (asked, first)
    assert difference(little) < difference(full) / 3


def test_inpainting_changes_what_the_mask_shows_and_keeps_the_rest(pipeline: StableDiffusionPipeline) -> None:
    """With a mask over the shape, another shape is drawn there in most cases; the unmasked frame stays as it was."""
    repaint = AutoPipelineForInpainting.from_pipe(pipeline)
    repaint.set_progress_bar_config(disable=True)
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (8, 8, 56, 56))
    pairs = [(Scene("red", "circle", "blue"), Scene("yellow", "square", "blue")),
             (Scene("black", "cross", "white"), Scene("green", "triangle", "white")),
             (Scene("white", "square", "purple"), Scene("orange", "circle", "purple")),
             (Scene("yellow", "triangle", "green"), Scene("black", "square", "green"))]  # fmt: skip
    images = [
        repaint(
            asked.prompt,
            draw(first, Place(32, 32, 17)),
            mask,
            strength=1.0,
            num_inference_steps=20,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(3),
        ).images[0]
        for first, asked in pairs
    ]
    right = sum(measure(image) == asked for image, (_, asked) in zip(images, pairs, strict=True))
    assert right >= 3
    for image, (first, _) in zip(images, pairs, strict=True):
        corner, colour = image.getpixel((2, 2)), COLOURS[first.background]
        assert max(abs(a - b) for a, b in zip(corner, colour, strict=True)) < 40


def test_the_weights_are_those_that_the_recipe_names() -> None:
    """MODEL.md lists each file of weights with its sum; the folder is small, has a licence and holds no pickle."""
    told = re.findall(r"`([0-9a-f]{64})` `([^`]+)`", (SHAPES_DRAW / "MODEL.md").read_text())
    assert {name: total for total, name in told} == sums(SHAPES_DRAW) != {}
    files = [file for file in SHAPES_DRAW.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 6 * 1024**2
    assert {file.suffix for file in files} == {".json", ".md", ".safetensors", ".toml", ""}
    assert "Apache License, Version 2.0" in (SHAPES_DRAW / "LICENSE").read_text()


def test_each_word_of_the_world_is_one_token_in_any_case(pipeline: StableDiffusionPipeline) -> None:
    """The shipped tokenizer is the one the script builds, and reads a prompt word by word."""
    scene = Scene("orange", "triangle", "black")
    expected = ["an</w>", "orange</w>", "triangle</w>", "on</w>", "a</w>", "black</w>", "background</w>"]
    assert pipeline.tokenizer.tokenize(scene.prompt.upper()) == expected
    assert pipeline.tokenizer.get_vocab() == make_tokenizer().get_vocab()
    assert all(len(pipeline.tokenizer.tokenize(word)) == 1 for word in WORDS)
    assert all(len(pipeline.tokenizer.tokenize(scene.prompt)) == 7 for scene in all_scenes())


def test_training_is_repeatable(tmp_path: Path) -> None:
    """Two runs of a few steps on one thread write equal weights; another seed writes other ones."""
    torch.set_num_threads(1)

    def run(name: str, seed: int) -> dict[str, str]:
        short = Course(steps=2, batch=4, rate=1e-3, seed=seed)
        lesson = Lesson(short, even=0.5, places=random_place, repeats=1)
        recipe = Recipe(cuts=short, wholes=short, sharpening=short, lessons=(lesson, lesson), build_seed=0)
        save(trained_pipeline(recipe, trained_autoencoder(recipe)), tmp_path / name)
        return sums(tmp_path / name)

    assert run("one", 1) == run("other", 1)
    assert run("third", 2) != run("one again", 1)
