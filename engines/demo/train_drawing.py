"""Trains shapes-draw, a Stable-Diffusion-layout pipeline that draws the world of coloured shapes, and saves it.

    OMP_NUM_THREADS=1 python -m engines.demo.train_drawing [--out engines/demo/shapes-draw]

On a CPU, from fixed seeds: one machine and one thread give the same weights each time.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from engines.demo import train_drawing_layout as layout
from engines.demo.evaluate_drawing import SHAPES_DRAW
from engines.demo.train_drawing_loops import (
    Course,
    Learner,
    Places,
    central_place,
    encode_examples,
    set_scaling_factor,
    train_autoencoder,
    train_decoder,
    train_denoiser,
)
from engines.demo.world import random_place

_REPORT_EVERY = 50


@dataclass(frozen=True, slots=True)
class Lesson:
    """One course of the denoiser, on each scene at `repeats` places; `even` is the part of evenly spread noise."""

    course: Course
    even: float
    places: Places
    repeats: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """The autoencoder learns on small cuts, then on whole pictures, then its decoder alone to be sharp.

    The denoiser takes its lessons one after the other, each from the averaged weights of the one before.
    """

    cuts: Course
    wholes: Course
    sharpening: Course
    lessons: tuple[Lesson, ...]
    build_seed: int


SHIPPED = Recipe(
    cuts=Course(steps=1200, batch=24, rate=2e-3, seed=1),
    wholes=Course(steps=200, batch=16, rate=7e-4, seed=2),
    sharpening=Course(steps=1000, batch=16, rate=1.5e-3, seed=3),
    lessons=(
        # Colours at any noise; then, where they are decided, shapes; then large shapes near the middle.
        Lesson(Course(3600, batch=32, rate=1.2e-3, seed=4, broken_off=2000), even=1.0, places=random_place, repeats=40),
        Lesson(Course(2200, batch=32, rate=1.2e-3, seed=5, broken_off=800), even=0.15, places=random_place, repeats=40),
        Lesson(Course(1600, batch=32, rate=1.2e-3, seed=6), even=0.4, places=central_place, repeats=20),
    ),
    build_seed=0,
)


def trained_autoencoder(recipe: Recipe) -> AutoencoderKL:
    torch.manual_seed(recipe.build_seed)
    autoencoder = layout.make_autoencoder()
    cuts = train_autoencoder(autoencoder, recipe.cuts, side=32)
    wholes = train_autoencoder(autoencoder, recipe.wholes, side=64)
    _follow("autoencoder", chain(cuts, wholes))
    set_scaling_factor(autoencoder, recipe.wholes.seed)
    _follow("decoder", train_decoder(autoencoder, recipe.sharpening))
    return autoencoder.requires_grad_(requires_grad=False)


def trained_pipeline(recipe: Recipe, autoencoder: AutoencoderKL) -> StableDiffusionPipeline:
    torch.manual_seed(recipe.build_seed)
    tokenizer = layout.make_tokenizer()
    learner = Learner(
        layout.make_denoiser(), layout.make_text_encoder(tokenizer), tokenizer, layout.make_noise_schedule()
    )
    average = learner.copied()
    for number, lesson in enumerate(recipe.lessons, start=1):
        examples = encode_examples(autoencoder, lesson.repeats, lesson.places, lesson.course.seed)
        learner = average.copied()
        _follow(f"lesson {number}", train_denoiser(learner, average, examples, lesson.course, lesson.even))
    return layout.assemble(autoencoder, average.denoiser, average.text_encoder, tokenizer)


def _follow(name: str, losses: Iterator[float]) -> None:
    """Drives a training loop to its end and prints how it goes."""
    start, recent = time.monotonic(), []
    for step, loss in enumerate(losses, start=1):
        recent.append(loss)
        if step % _REPORT_EVERY == 0:
            print(f"{name} {step}: {sum(recent) / len(recent):.4f}, {time.monotonic() - start:.0f} s", flush=True)
            recent.clear()


def sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of weights, by its path inside the folder."""
    files = sorted(folder.rglob("*.safetensors"))
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SHAPES_DRAW)
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    layout.save(trained_pipeline(SHIPPED, trained_autoencoder(SHIPPED)), folder)
    for file, total in sums(folder).items():
        print(f"- `{total}` `{file}`")


if __name__ == "__main__":
    main()
