"""Decides whether the loaded pipeline can draw what a body asks for, and with which numbers. Pure.

Everything a worker is given has passed here: no field of a body can make it fail later, but for memory.
"""

import re
import secrets
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from PIL.Image import Image

from engines.diffusers.jobs import ImageJob, PipelineFacts
from engines.diffusers.options import EngineOptions
from engines.diffusers.refusals import invalid
from engines.diffusers.wire import MAX_SEED, DrawingBody, Usage
from engines.pictures.encoding import Encoding

MAX_SIDE = 16_383  # WebP's, the smallest of the output formats
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
_PATCH = 16
_WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Source:
    """What an edit starts from: `image` RGB and `mask` L (white is drawn anew), both of the size that is drawn."""

    image: Image
    mask: Image | None
    strength: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """n images that the loaded pipeline can draw, and how they are wanted back. Sizes in pixels."""

    prompt: str
    negative_prompt: str
    n: int
    size: Size
    seed: int
    steps: int
    guidance: float
    scheduler: str | None
    encoding: Encoding
    quality: str
    stream: bool
    partial_images: int
    source: Source | None = None

    @property
    def size_text(self) -> str:
        return f"{self.size[0]}x{self.size[1]}"

    def jobs(self, request_id: str, priority: int) -> list[ImageJob]:
        """One for each image, with seeds that count up."""
        source = self.source
        return [
            ImageJob(
                job_id=f"{request_id}/{index}",
                priority=priority,
                prompt=self.prompt,
                negative_prompt=self.negative_prompt,
                width=self.size[0],
                height=self.size[1],
                steps=self.steps,
                guidance=self.guidance,
                scheduler=self.scheduler,
                seed=self.seed + index,
                image=source.image if source else None,
                mask=source.mask if source else None,
                strength=source.strength if source else 1.0,
                preview_count=self.partial_images,
            )
            for index in range(self.n)
        ]

    def usage(self) -> Usage:
        words = _WORD_OR_SIGN.findall(f"{self.prompt} {self.negative_prompt}")
        patches = -(-self.size[0] // _PATCH) * -(-self.size[1] // _PATCH)
        return Usage.of(len(words), patches if self.source else 0, patches * self.n)


def checked(body: DrawingBody, size: Size, facts: PipelineFacts, options: EngineOptions) -> Drawing:
    """What `body` asks for, in `size`. Raises `Refused`, naming the field."""
    n = body.n or 1
    _check_wanted_form(body, n, options)
    steps = _one_of(body, "steps", "num_inference_steps")
    guidance = _one_of(body, "guidance", "guidance_scale")
    return Drawing(
        prompt=body.prompt,
        negative_prompt=_negative_prompt(body, facts),
        n=n,
        size=size,
        seed=_seed(body, n),
        steps=facts.default_steps if steps is None else _checked_steps(int(steps), body, options),
        guidance=facts.default_guidance if guidance is None else float(guidance),
        scheduler=_scheduler(body, facts),
        encoding=Encoding(body.output_format or "png", body.output_compression),
        quality=body.quality if isinstance(body.quality, str) else "auto",
        stream=bool(body.stream),
        partial_images=body.partial_images or 0,
    )


def _check_wanted_form(body: DrawingBody, n: int, options: EngineOptions) -> None:
    if not body.prompt.strip():
        raise invalid("must say what to draw; it is empty", "prompt")
    if n > options.max_images:
        raise invalid(f"at most {options.max_images} images are drawn in one request, not {n}", "n")
    if body.partial_images and not body.stream:
        raise invalid('partial images need "stream": true', "partial_images")


def _negative_prompt(body: DrawingBody, facts: PipelineFacts) -> str:
    # Refused, not ignored: a caller who excludes something must not be given it without a word.
    if body.negative_prompt and not facts.takes_negative_prompt:
        raise invalid(f"{facts.pipeline} takes none; leave it out", "negative_prompt", "unsupported_parameter")
    return body.negative_prompt or ""


def _seed(body: DrawingBody, n: int) -> int:
    """The first of n. Drawn ones fit into 32 bits, so that every JSON reader keeps them exact."""
    if body.seed is None:
        return secrets.randbelow(2**32)
    if body.seed + n - 1 > MAX_SEED:
        raise invalid(f"n images use seed, seed + 1, …; with n = {n} it is at most {MAX_SEED - n + 1}", "seed")
    return body.seed


def _one_of(body: DrawingBody, name: str, long_name: str) -> Any:
    short, long = getattr(body, name), getattr(body, long_name)
    if short is not None and long is not None and short != long:
        raise invalid(f"{name} is {short:g} and {long_name} is {long:g}, and they mean the same; send one", name)
    return long if short is None else short


def _checked_steps(steps: int, body: DrawingBody, options: EngineOptions) -> int:
    if steps > options.max_steps:
        param = "steps" if body.steps is not None else "num_inference_steps"
        raise invalid(f"at most {options.max_steps} are made here, not {steps}", param)
    return steps


def _scheduler(body: DrawingBody, facts: PipelineFacts) -> str | None:
    name = body.scheduler
    if not name:
        return None
    if name in facts.schedulers:
        return name
    near = get_close_matches(name, facts.schedulers, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]}?" if near else ""
    known = ", ".join(facts.schedulers) or "none but the pipeline's own"
    raise invalid(f"there is no scheduler {_short(name)} for {facts.pipeline}.{hint} Known: {known}", "scheduler")


def asked_size(body: DrawingBody, facts: PipelineFacts, options: EngineOptions) -> Size | None:
    """The size that a body names; None for "auto". Raises `Refused`."""
    if body.size is None or body.size == "auto":
        return None
    found = _SIZE.fullmatch(body.size)
    if found is None:
        raise invalid(f'must be like "512x512" or "auto", not {_short(body.size)}', "size")
    return checked_size((int(found[1]), int(found[2])), facts, options)


def checked_size(size: Size, facts: PipelineFacts, options: EngineOptions) -> Size:
    """`size`, when the pipeline can draw it. Raises `Refused`."""
    width, height = size
    if max(size) > MAX_SIDE or width * height > options.max_pixels:
        limit = f"at most {options.max_pixels} pixels are drawn, {MAX_SIDE} along a side"
        raise invalid(f"{width}x{height} is too large; {limit}", "size")
    near = tuple(_nearest(side, facts.multiple_of) for side in size)
    if near != size:
        wrong = f"both sides of {width}x{height} must be multiples of {facts.multiple_of}"
        raise invalid(f"{wrong} and not zero, for instance {near[0]}x{near[1]}", "size")
    return size


def default_size(facts: PipelineFacts, options: EngineOptions) -> Size:
    """What is drawn where no size is named; a configured one need not be a multiple, nor within the limit."""
    return fitting_size((facts.default_width, facts.default_height), facts, options)


def fitting_size(size: Size, facts: PipelineFacts, options: EngineOptions) -> Size:
    """The size nearest to an image's own that is drawn, with about as many pixels as by default at most.

    Raises `Refused` for an image that is too long and narrow for any.
    """
    most = min(options.max_pixels, facts.default_width * facts.default_height)
    shrink = min(1.0, (most / (size[0] * size[1])) ** 0.5)
    width, height = (_nearest(side * shrink, facts.multiple_of) for side in size)
    if width * height > options.max_pixels:
        width, height = (max(facts.multiple_of, side - facts.multiple_of) for side in (width, height))
    if width * height > options.max_pixels or max(width, height) > MAX_SIDE:
        raise invalid(f"{size[0]}x{size[1]} is too long and narrow; name a size to draw", "image")
    return width, height


def _nearest(side: float, multiple_of: int) -> int:
    return max(1, round(side / multiple_of)) * multiple_of


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
