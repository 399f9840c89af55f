"""The demo's pictures: eight callers draw at once, one drawing is captioned, and upscaled; all of it is checked.

What was asked for, what was drawn (by its pixels) and what was said about it must be the same scene.
"""

import asyncio
import base64
import io
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from openai import AsyncOpenAI
from PIL import Image

from engines.demo.world import Scene, measure, parse, random_scene

DRAW, CAPTION, PICTURES = "shapes-draw", "shapes-caption", "pictures"
WANTED = Scene("red", "circle", "blue")
CALLERS = 8
SCALE = 8


@dataclass(frozen=True)
class Drawing:
    """A drawing as it came, and as an image."""

    png: bytes
    image: Image.Image

    @property
    def data_url(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


async def draw(client: AsyncOpenAI, prompt: str, seed: int) -> Drawing:
    """One picture through the OpenAI SDK; `seed` is one of the engine's own fields."""
    answer = await client.images.generate(model=DRAW, prompt=prompt, extra_body={"seed": seed})
    assert answer.data is not None
    png = base64.b64decode(answer.data[0].b64_json or "")
    return Drawing(png, Image.open(io.BytesIO(png)))


async def draw_together(client: AsyncOpenAI) -> float:
    """Different callers at the same time, whose denoising steps share batches; seconds for all of them.

    Raises SystemExit when a picture is not what its own caller asked for.
    """
    rng = random.Random(7)
    scenes = [random_scene(rng) for _ in range(CALLERS)]
    began = time.monotonic()
    drawings = await asyncio.gather(*(draw(client, scene.prompt, n) for n, scene in enumerate(scenes)))
    took = time.monotonic() - began
    right = [measure(drawing.image) == scene for scene, drawing in zip(scenes, drawings, strict=True)]
    # A tiny model may miss one of eight; that callers' pictures are mixed up would show in most of them.
    if sum(right) < CALLERS - 1:
        raise SystemExit(f"only {sum(right)} of {CALLERS} drawings are what their callers asked for")
    return took


async def caption(client: AsyncOpenAI, drawing: Drawing) -> str:
    """What the vision-language model says about it, by a chat with an image."""
    question = {"type": "text", "text": "What is in the picture?"}
    picture = {"type": "image_url", "image_url": {"url": drawing.data_url}}
    answer = await client.chat.completions.create(
        model=CAPTION,
        messages=[{"role": "user", "content": [question, picture]}],  # type: ignore[misc,list-item]
        temperature=0,
        max_tokens=20,
    )
    return (answer.choices[0].message.content or "").strip()


async def upscale(http: httpx.AsyncClient, drawing: Drawing) -> Drawing:
    """Through the unified API: a file in, the address of a file out."""
    answer = await http.post(
        "/api/v1/image-processing",
        files={"file": ("drawing.png", drawing.png, "image/png")},
        data={"model": PICTURES, "operation": "upscale", "parameters": f'{{"scale": {SCALE}}}'},
        timeout=300,
    )
    if answer.status_code != 200:
        raise SystemExit(f"the picture was not upscaled: {answer.text}")
    png = (await http.get(answer.json()["image_path"])).content
    return Drawing(png, Image.open(io.BytesIO(png)))


def same_scene(drawing: Drawing, said: str, upscaled: Drawing) -> list[str]:
    """What does not agree with the prompt; empty when everything does."""
    seen: dict[str, Callable[[], Scene | None]] = {
        "the drawing": lambda: measure(drawing.image),
        "the caption": lambda: parse(said),
        "the upscaled drawing": lambda: measure(upscaled.image),
    }
    found = {name: look() for name, look in seen.items()}
    return [f"{name} shows {scene}, not {WANTED}" for name, scene in found.items() if scene != WANTED]


def keep(folder: Path, drawing: Drawing, upscaled: Drawing) -> list[Path]:
    """Write both pictures; their paths."""
    folder.mkdir(exist_ok=True)
    paths = [folder / "drawing.png", folder / "upscaled.png"]
    for path, picture in zip(paths, (drawing, upscaled), strict=True):
        path.write_bytes(picture.png)
    return paths
