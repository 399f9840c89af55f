"""Trains "shapes-caption", the vision-language model that names a coloured shape and its background.

Run as `python -m engines.demo.train_caption`, with the python of an environment that has torch and transformers, in
the folder above `engines`; shapes-caption/MODEL.md says how it was called. The same versions, seed and thread count
give the same weights. What it reached is measured by `evaluate_caption`.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from engines.demo.train_caption_layout import (
    CONTEXT_TOKENS,
    IMAGE,
    IMAGE_TOKENS,
    PATCH_SIDE,
    SIDE,
    as_model_input,
    make_model,
    make_tokenizer,
    save_folder,
)
from engines.demo.train_caption_lessons import Lesson, Sight, make_lesson, spoilt, tokenizer_texts
from engines.demo.world import COLOURS, SHAPES, random_scene

SEED = 20240611
_LOOKING_BATCH, _BATCH, _POOL = 32, 64, 6
_BRIEF_BATCH, _LONG_BATCH = 32, 12
_RATE, _WARM_STEPS = 1e-3, 100
_UNSCORED = -100
_CELLS = 4  # a side of a patch
_CHOICES = (tuple(COLOURS), SHAPES, tuple(COLOURS))


@dataclass(frozen=True, slots=True)
class Row:
    """A lesson in tokens; the last `scored` of them are the answer."""

    lesson: Lesson
    ids: list[int]
    scored: int


class Glance(nn.Module):  # type: ignore[misc]  # torch is not typed where this is checked
    """Reads the scene, and where its shape lies, off the projected picture; only there while training.

    A shorter way than through the words, and without the places it is long before any shape is told from another.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, len(names)) for names in _CHOICES)
        self.where = nn.Linear(width, _CELLS**2)
        self.features = torch.zeros(0)

    def keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self.features = output

    def loss(self, sights: list[Sight]) -> Tensor:
        if not sights:
            return torch.zeros(())
        seen = self.features.reshape(len(sights), IMAGE_TOKENS, -1)
        scenes = [sight.scene for sight in sights]
        wanted = zip(*((scene.colour, scene.shape, scene.background) for scene in scenes), strict=True)
        told = [
            nn.functional.cross_entropy(head(seen.mean(1)), torch.tensor([names.index(word) for word in words]))
            for head, names, words in zip(self.heads, _CHOICES, wanted, strict=True)
        ]
        return torch.stack(told).sum() + 3 * nn.functional.binary_cross_entropy_with_logits(
            self.where(seen), _covered(sights)
        )


def _covered(sights: list[Sight]) -> Tensor:
    """For every patch how much of each of its cells the shape covers: (N, patches, cells of one)."""
    plain = torch.frombuffer(bytearray(b"".join(sight.coverage.tobytes() for sight in sights)), dtype=torch.uint8)
    rows = SIDE // PATCH_SIDE
    cells = nn.functional.avg_pool2d(plain.reshape(-1, 1, SIDE, SIDE).float() / 255, PATCH_SIDE // _CELLS)
    split = cells.reshape(-1, rows, _CELLS, rows, _CELLS)
    return split.permute(0, 1, 3, 2, 4).reshape(-1, rows**2, _CELLS**2)


@dataclass(frozen=True, slots=True)
class Course:
    """How many steps it learns to look and to speak, and how fast to speak.

    `harm` (first, last) is how much of what it looks at is spoilt.
    `brief`: it speaks in smaller batches without long questions, of pictures that are spoilt half as often.
    """

    looking: int
    speaking: int
    speaking_rate: float
    harm: tuple[float, float]
    brief: bool = False


COURSES = (
    Course(looking=2800, speaking=500, speaking_rate=1e-3, harm=(0.0, 3.0)),
    # After the first one colours are told apart without fault, and shapes in four of five pictures.
    Course(looking=2000, speaking=100, speaking_rate=3e-4, harm=(0.5, 0.5)),
    Course(looking=0, speaking=600, speaking_rate=7e-4, harm=(0.5, 0.5), brief=True),
    Course(looking=0, speaking=400, speaking_rate=6e-4, harm=(0.5, 0.5), brief=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument("--course", type=int, choices=range(1, len(COURSES) + 1), default=1)
    parser.add_argument("--after", type=Path, help="what the course before wrote")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    torch.manual_seed(options.seed)
    if options.after is None:
        tokenizer = make_tokenizer(tokenizer_texts())
        model = make_model(tokenizer)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.after)
        model = LlavaForConditionalGeneration.from_pretrained(options.after, dtype=torch.float32)
    train(model, tokenizer, rng, COURSES[options.course - 1])
    save_folder(model, tokenizer, options.output)


def train(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, rng: random.Random, course: Course
) -> None:
    """First the eyes alone, which is quick, then everything."""
    glance = Glance(model.config.text_config.hidden_size)
    model.model.multi_modal_projector.register_forward_hook(glance.keep)
    model.train()
    eyes = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    batches = (_brief_batches if course.brief else _batches)(rng, tokenizer)
    looking, speaking = (
        _looking(model, glance, rng, course),
        _speaking(model, glance, int(tokenizer.pad_token_id), batches),
    )
    _learn("looking", _optimizer([*eyes, *glance.parameters()], _RATE), looking, course.looking)
    _learn(
        "speaking",
        _optimizer([*model.parameters(), *glance.parameters()], course.speaking_rate),
        speaking,
        course.speaking,
    )


def _optimizer(weights: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights, lr=rate, weight_decay=0.01, betas=(0.9, 0.98))


def _learn(name: str, optimizer: torch.optim.Optimizer, losses: Iterator[Tensor], steps: int) -> None:
    """Lower the losses as they come; each is computed with the weights as they are by then."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_share(step, steps))
    begun_at = time.monotonic()
    for step, loss in enumerate(islice(losses, steps), start=1):
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps:
            print(f"{name}: step {step}, loss {loss:.4f}, {time.monotonic() - begun_at:.0f} s", flush=True)


def _looking(
    model: LlavaForConditionalGeneration, glance: Glance, rng: random.Random, course: Course
) -> Iterator[Tensor]:
    """At first from plain pictures to spoilt ones: shapes are learnt much sooner where nothing hides them."""
    first, last = course.harm
    for step in range(course.looking):
        harm = first + (last - first) * step / course.looking
        sights = [spoilt(random_scene(rng), rng, harm=harm) for _ in range(_LOOKING_BATCH)]
        pixels = _pixels([sight.picture for sight in sights])
        model.model.multi_modal_projector(model.model.vision_tower(pixels).last_hidden_state[:, 1:])
        yield glance.loss(sights)


def _speaking(
    model: LlavaForConditionalGeneration, glance: Glance, pad: int, batches: Iterator[list[Row]]
) -> Iterator[Tensor]:
    for rows in batches:
        spoken = model(**_tensors(rows, pad)).loss
        yield spoken + glance.loss([row.lesson.sight for row in rows if row.lesson.sight])


def _rate_share(step: int, steps: int) -> float:
    """Up in a line, down along a cosine."""
    if step < _WARM_STEPS:
        return (step + 1) / _WARM_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - _WARM_STEPS) / max(1, steps - _WARM_STEPS)))


def _batches(rng: random.Random, tokenizer: PreTrainedTokenizerFast) -> Iterator[list[Row]]:
    """Batches without end, each of rows of about one length; after some of the usual ones follows a long one."""
    while True:
        pool = sorted(_rows(rng, tokenizer, _BATCH * _POOL, long=False), key=lambda row: len(row.ids))
        batches = [pool[start : start + _BATCH] for start in range(0, len(pool), _BATCH)]
        batches.append(_rows(rng, tokenizer, _LONG_BATCH, long=True))
        yield from rng.sample(batches, len(batches))


def _brief_batches(rng: random.Random, tokenizer: PreTrainedTokenizerFast) -> Iterator[list[Row]]:
    """Half as many rows, none of them long, and pictures that are spoilt half as often: more steps in the same time."""
    while True:
        pool = sorted(_rows(rng, tokenizer, _BATCH * _POOL, long=False, harm=0.5), key=lambda row: len(row.ids))
        batches = [pool[start : start + _BRIEF_BATCH] for start in range(0, len(pool), _BRIEF_BATCH)]
        yield from rng.sample(batches, len(batches))


def _rows(
    rng: random.Random, tokenizer: PreTrainedTokenizerFast, count: int, *, long: bool, harm: float = 1.0
) -> list[Row]:
    made = (_row(make_lesson(rng, long=long, harm=harm), tokenizer) for _ in repeat(None))
    return list(islice((row for row in made if len(row.ids) <= CONTEXT_TOKENS), count))


def _row(lesson: Lesson, tokenizer: PreTrainedTokenizerFast) -> Row:
    prompt = tokenizer.apply_chat_template(lesson.messages, tokenize=False, add_generation_prompt=True)
    asked = tokenizer.encode(prompt.replace(IMAGE, IMAGE * IMAGE_TOKENS), add_special_tokens=False)
    answer = tokenizer.encode(lesson.answer + str(tokenizer.eos_token), add_special_tokens=False)
    return Row(lesson, [*asked, *answer], len(answer))


def _tensors(rows: list[Row], pad: int) -> dict[str, Tensor]:
    """The model's arguments for a batch: only the answers' tokens are scored."""
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad)
    labels = torch.full((len(rows), length), _UNSCORED)
    for place, row in enumerate(rows):
        end = len(row.ids)
        ids[place, :end] = torch.tensor(row.ids)
        labels[place, end - row.scored : end] = ids[place, end - row.scored : end]
    arguments = {"input_ids": ids, "attention_mask": (ids != pad).long(), "labels": labels}
    pictures = [row.lesson.sight.picture for row in rows if row.lesson.sight]
    return {**arguments, "pixel_values": _pixels(pictures)} if pictures else arguments


def _pixels(pictures: list[Image.Image]) -> Tensor:
    plain = torch.frombuffer(bytearray(b"".join(picture.tobytes() for picture in pictures)), dtype=torch.uint8)
    return as_model_input(plain.reshape(len(pictures), SIDE, SIDE, 3))


if __name__ == "__main__":
    main()
