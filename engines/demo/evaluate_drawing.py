"""Draws random prompts with shapes-draw and measures in pixels how many came out right, for each scheduler.

python -m engines.demo.evaluate_drawing [--model engines/demo/shapes-draw] [--count 100] [--steps 20]
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import (
    AutoPipelineForText2Image,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from PIL import Image

from engines.demo.world import Scene, measure, random_scene

SHAPES_DRAW = Path(__file__).parent / "shapes-draw"
SCHEDULERS = {
    "euler": EulerDiscreteScheduler,
    "ddim": DDIMScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "euler_a": EulerAncestralDiscreteScheduler,
}
_BATCH = 20


def load(folder: Path = SHAPES_DRAW) -> StableDiffusionPipeline:
    pipeline = AutoPipelineForText2Image.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def random_scenes(count: int, seed: int) -> list[Scene]:
    rng = random.Random(seed)
    return [random_scene(rng) for _ in range(count)]


def drawings(
    pipeline: StableDiffusionPipeline, scenes: list[Scene], seed: int, *, steps: int = 20, guidance: float = 1.5
) -> Iterator[Image.Image]:
    """One drawing of each scene's prompt, the first from this seed, the next from the one after."""
    for start in range(0, len(scenes), _BATCH):
        prompts = [scene.prompt for scene in scenes[start : start + _BATCH]]
        seeds = range(seed + start, seed + start + len(prompts))
        yield from pipeline(
            prompts,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(number) for number in seeds],
        ).images


def misses(scenes: list[Scene], images: Iterator[Image.Image]) -> list[tuple[Scene, Scene | None]]:
    """What was asked for and what was measured, where they differ."""
    pairs = ((scene, measure(image)) for scene, image in zip(scenes, images, strict=True))
    return [(scene, seen) for scene, seen in pairs if scene != seen]


def evaluate(folder: Path, count: int, steps: int, guidance: float) -> dict[str, list[tuple[Scene, Scene | None]]]:
    """The misses by scheduler, all on the same prompts and seeds."""
    pipeline, scenes = load(folder), random_scenes(count, seed=count)
    found = {}
    for name, scheduler in SCHEDULERS.items():
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
        found[name] = misses(scenes, drawings(pipeline, scenes, seed=0, steps=steps, guidance=guidance))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHAPES_DRAW)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=1.5)
    arguments = parser.parse_args()
    found = evaluate(arguments.model, arguments.count, arguments.steps, arguments.guidance)
    for name, wrong in found.items():
        print(f"{name:10} {arguments.count - len(wrong)} of {arguments.count} right")
        for scene, seen in wrong:
            print(f"    {scene.prompt}: {seen.prompt if seen else 'nothing clear'}")


if __name__ == "__main__":
    main()
