"""Measures "shapes-caption": how many random scenes it names rightly, plain and spoilt in many ways.

Run as `python -m engines.demo.evaluate_caption engines/demo/shapes-caption`, where train_caption runs. Given pictures
instead (`--pictures FILE...`), it says what it sees in each. It loads what was published, as transformers reads it.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from engines.demo.train_caption_lessons import QUESTIONS, spoilt
from engines.demo.world import Scene, parse, random_scene, render

_BATCH = 25
_ANSWER_TOKENS = 24
_LEAST_SHARE = 0.95


class Captioner:
    """The model as it lies in a folder, answering for pictures of any size."""

    def __init__(self, folder: Path) -> None:
        self._preparation = AutoProcessor.from_pretrained(folder)
        self._preparation.tokenizer.padding_side = "left"  # so that every row goes on at its end
        self._model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    def captions(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        prompts = [self._prompt(question) for question in questions]
        inputs = self._preparation(images=list(pictures), text=prompts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            written = self._model.generate(**inputs, max_new_tokens=_ANSWER_TOKENS, do_sample=False, top_k=None)
        answers = written[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self._preparation.batch_decode(answers, skip_special_tokens=True)]

    def _prompt(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = self._preparation.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return str(prompt)


def accuracy(captioner: Captioner, scenes: Sequence[Scene], pictures: Sequence[Image.Image], rng: random.Random) -> int:
    """How many of the pictures are named rightly, each asked for in other words."""
    right = 0
    for start in range(0, len(scenes), _BATCH):
        batch = pictures[start : start + _BATCH]
        answers = captioner.captions(batch, [rng.choice(QUESTIONS) for _ in batch])
        right += sum(
            parse(answer) == scene for answer, scene in zip(answers, scenes[start : start + _BATCH], strict=True)
        )
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--pictures", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    captioner = Captioner(options.folder)
    if options.pictures:
        _name(captioner, options.pictures)
        return 0
    rng = random.Random(options.seed)
    scenes = [random_scene(rng) for _ in range(options.scenes)]
    plain = accuracy(captioner, scenes, [render(scene, rng) for scene in scenes], rng)
    harmed = accuracy(captioner, scenes, [spoilt(scene, rng).picture for scene in scenes], rng)
    print(f"right: {plain} of {len(scenes)} plain pictures, {harmed} of {len(scenes)} spoilt ones")
    return 0 if plain >= _LEAST_SHARE * len(scenes) else 1


def _name(captioner: Captioner, paths: Sequence[Path]) -> None:
    pictures = [Image.open(path).convert("RGB") for path in paths]
    for path, answer in zip(paths, captioner.captions(pictures, [QUESTIONS[0]] * len(pictures)), strict=True):
        print(f"{path}: {answer}")


if __name__ == "__main__":
    sys.exit(main())
