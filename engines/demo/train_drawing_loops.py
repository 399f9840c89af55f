"""The two training loops of shapes-draw: first the autoencoder, then denoiser and text encoder together.

Everything random comes from seeds given by the caller: on one machine with one thread the same call gives the same
weights. It decides neither sizes nor folders.
"""

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from engines.demo.train_drawing_prompts import word_prompt
from engines.demo.world import SIDE, Place, Scene, all_scenes, draw, random_place, random_scene

_DIVERGENCE_WEIGHT = 1e-3
_EMA_DECAY = 0.995
_WARM_UP_STEPS = 50


@dataclass(frozen=True, slots=True)
class Course:
    """How long and how fast one loop trains, and on which seed.

    The rate falls towards the last of the steps; `broken_off` ends the course before that.
    """

    steps: int
    batch: int
    rate: float
    seed: int
    broken_off: int | None = None


def _optimizer(
    modules: Iterable[nn.Module], course: Course
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LRScheduler]:
    weights = [weight for module in modules for weight in module.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=course.rate, betas=(0.9, 0.99), weight_decay=1e-3)
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        course.rate,
        total_steps=course.steps + 1,
        pct_start=min(0.3, _WARM_UP_STEPS / course.steps),
        cycle_momentum=False,
    )
    return optimizer, one_cycle


Places = Callable[[random.Random], Place]


def central_place(rng: random.Random) -> Place:
    """A large shape near the middle: what shapes-draw is to draw, since so it is learned soonest."""
    half = rng.uniform(16, 19)
    return Place(rng.uniform(28, 36), rng.uniform(28, 36), half)


def pixels_of(scenes: Iterable[Scene], rng: random.Random, places: Places = random_place) -> Tensor:
    """The scenes, each at a place of its own, as [n, 3, 64, 64] from -1 to 1."""
    plain = b"".join(draw(scene, places(rng)).tobytes() for scene in scenes)
    levels = torch.frombuffer(bytearray(plain), dtype=torch.uint8).view(-1, SIDE, SIDE, 3)
    return levels.permute(0, 3, 1, 2).float() / 127.5 - 1


def train_autoencoder(autoencoder: AutoencoderKL, course: Course, side: int) -> Iterator[float]:
    """Trains in place on square cuts of this side, one step for each loss taken.

    It is made of convolutions only, so small cuts, which are cheap, teach it most of what whole pictures need.
    """
    return _learn_pictures(autoencoder, [autoencoder], course, side)


def train_decoder(autoencoder: AutoencoderKL, course: Course) -> Iterator[float]:
    """Trains in place, on whole pictures, only what turns latents into pixels: latents mean the same as before."""
    return _learn_pictures(autoencoder, [autoencoder.post_quant_conv, autoencoder.decoder], course, SIDE)


def _learn_pictures(autoencoder: AutoencoderKL, trained: list[nn.Module], course: Course, side: int) -> Iterator[float]:
    torch.manual_seed(course.seed)
    rng = random.Random(course.seed)
    autoencoder.requires_grad_(requires_grad=False)
    for module in trained:
        module.requires_grad_(requires_grad=True)
    optimizer, rates = _optimizer(trained, course)
    for _ in range(course.steps):
        pixels = _cut(pixels_of((random_scene(rng) for _ in range(course.batch)), rng), side, rng)
        spread = autoencoder.encode(pixels).latent_dist
        error = autoencoder.decode(spread.sample()).sample - pixels
        divergence = spread.kl().mean() / spread.mean[0].numel()
        loss = error.abs().mean() + error.square().mean() + _DIVERGENCE_WEIGHT * divergence
        _step(loss, optimizer, rates, trained)
        yield loss.item()


def _cut(pixels: Tensor, side: int, rng: random.Random) -> Tensor:
    left, top = rng.randint(0, SIDE - side), rng.randint(0, SIDE - side)
    return pixels[:, :, top : top + side, left : left + side]


def set_scaling_factor(autoencoder: AutoencoderKL, seed: int) -> None:
    """Notes the factor that gives latents a spread of one."""
    with torch.no_grad():
        latents = autoencoder.encode(pixels_of(all_scenes(), random.Random(seed))).latent_dist.mean
    autoencoder.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))


def _step(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    rates: torch.optim.lr_scheduler.LRScheduler,
    modules: Iterable[nn.Module],
) -> None:
    optimizer.zero_grad()
    loss.backward()
    for module in modules:
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    rates.step()


@dataclass(frozen=True, slots=True)
class Examples:
    """Scenes and their latents, [n, 4, 8, 8], scaled to a spread of one."""

    scenes: list[Scene]
    latents: Tensor


def encode_examples(autoencoder: AutoencoderKL, repeats: int, places: Places, seed: int) -> Examples:
    """Every scene of the world, at as many places as there are repeats."""
    rng, scenes = random.Random(seed), all_scenes()
    with torch.no_grad():
        latents = [autoencoder.encode(pixels_of(scenes, rng, places)).latent_dist.mean for _ in range(repeats)]
    return Examples(scenes * repeats, torch.cat(latents) * autoencoder.config.scaling_factor)


@dataclass(frozen=True, slots=True)
class Learner:
    """What the second loop trains, and the schedule of noise that it trains for."""

    denoiser: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    schedule: DDIMScheduler

    def copied(self) -> "Learner":
        """The same weights in copies of their own."""
        denoiser, text_encoder = (copy.deepcopy(part) for part in self.trained)
        return replace(self, denoiser=denoiser, text_encoder=text_encoder)

    @property
    def trained(self) -> tuple[nn.Module, nn.Module]:
        return self.denoiser, self.text_encoder

    def loss(self, latents: Tensor, prompts: list[str], shares: Tensor) -> Tensor:
        """The error of the predicted velocity, each row after a share of all the noise, from 0 to below 1."""
        noise = torch.randn_like(latents)
        times = (shares * self.schedule.config.num_train_timesteps).long()
        noisy = self.schedule.add_noise(latents, noise, times)
        goal = self.schedule.get_velocity(latents, noise, times)
        return (self.denoiser(noisy, times, self._encode(prompts)).sample - goal).square().mean()

    def _encode(self, prompts: list[str]) -> Tensor:
        """Text states, [n, tokens, width]; equal prompts are encoded once."""
        different = sorted(set(prompts))
        ids = self.tokenizer(different, padding="max_length", truncation=True, return_tensors="pt").input_ids
        place = {prompt: row for row, prompt in enumerate(different)}
        return self.text_encoder(ids)[0][[place[prompt] for prompt in prompts]]


def _noise_shares(count: int, even: float) -> Tensor:
    """Mostly where a shape is decided: with less noise it can be seen, with more there is only colour.

    `even` is the part that is spread evenly instead.
    """
    middle = torch.sigmoid(torch.randn(count) - 0.6)
    return torch.where(torch.rand(count) < even, torch.rand(count), middle)


def train_denoiser(
    learner: Learner, average: Learner, examples: Examples, course: Course, even: float
) -> Iterator[float]:
    """Trains in place, one step for each loss taken; `average` follows, and draws better than what is trained.

    `even`: the part of the examples whose noise is spread evenly; the others' noise is mostly middling.
    """
    torch.manual_seed(course.seed)
    rng = random.Random(course.seed)
    optimizer, rates = _optimizer(learner.trained, course)
    for rows in islice(_batches(len(examples.scenes), course.batch, rng), course.broken_off or course.steps):
        prompts = [word_prompt(examples.scenes[row], rng) for row in rows]
        loss = learner.loss(examples.latents[rows], prompts, _noise_shares(len(rows), even))
        _step(loss, optimizer, rates, learner.trained)
        _average(average.trained, learner.trained)
        yield loss.item()


def _batches(count: int, size: int, rng: random.Random) -> Iterator[list[int]]:
    order = list(range(count))
    for _ in cycle([None]):
        rng.shuffle(order)
        yield from (order[start : start + size] for start in range(0, count - size + 1, size))


def _average(averages: Iterable[nn.Module], modules: Iterable[nn.Module]) -> None:
    with torch.no_grad():
        for average, module in zip(averages, modules, strict=True):
            for kept, weight in zip(average.parameters(), module.parameters(), strict=True):
                kept.lerp_(weight, 1 - _EMA_DECAY)
