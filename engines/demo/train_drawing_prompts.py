"""How a scene is put into words for training: mostly its prompt, sometimes shorter or in another wording."""

import random

from engines.demo.world import COLOURS, SHAPES, Scene

_FRAMES = ("{}", "{}", "{}.", "a picture of {}", "draw {}", "an image of {}")
_PLAIN = (
    "{colour} {shape} on {background}",
    "{colour} {shape}, {background} background",
    "{colour} {shape} on a {background} background",
)
_FREE = ("a {colour} {shape}", "a {shape} on a {background} background", "a {background} background", "a {shape}")
_PLAIN_SHARE, _FREE_SHARE, _EMPTY_SHARE = 0.12, 0.08, 0.1

WORDS: tuple[str, ...] = (
    *COLOURS,
    *SHAPES,
    *("a", "an", "on", "the", "with", "of", "background", "picture", "image", "draw", "drawing", "shape"),
)


def word_prompt(scene: Scene, rng: random.Random) -> str:
    """A training prompt; empty one time in ten, so that the denoiser also learns to draw unguided."""
    chance = rng.random()
    if chance < _EMPTY_SHARE:
        return ""
    if chance < _EMPTY_SHARE + _FREE_SHARE:
        return rng.choice(_FREE).format(colour=scene.colour, shape=scene.shape, background=scene.background)
    if chance < _EMPTY_SHARE + _FREE_SHARE + _PLAIN_SHARE:
        return rng.choice(_PLAIN).format(colour=scene.colour, shape=scene.shape, background=scene.background)
    return rng.choice(_FRAMES).format(scene.prompt)
