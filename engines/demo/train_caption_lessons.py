"""What the caption model is taught from: pictures of random scenes, spoilt in many ways, and what people ask of them.

Everything follows from the random generators given. Pictures are spoilt as a drawing model, a camera or a file format
would spoil them; questions are of any kind, for the answer is always the caption.
"""

import io
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from engines.demo.world import COLOURS, SIDE, Place, Scene, all_scenes, draw, random_scene

NO_PICTURE = "I see no picture"

QUESTIONS = (
    "What is in this picture?",
    "What do you see?",
    "What's this?",
    "What does the image show?",
    "What is shown here?",
    "What colour is the shape?",
    "What color is the background?",
    "Which shape is it?",
    "Is there a circle in the image?",
    "How many shapes are there?",
    "Describe this image.",
    "Describe the picture in detail.",
    "Describe the image in one sentence.",
    "Please describe what you see in this photo.",
    "Caption this image.",
    "Caption this.",
    "Write a caption for this picture.",
    "Write a short, accurate description.",
    "Name the shape, its colour and the background.",
    "Tell me what this is.",
    "Tell me about the image",
    "Can you tell me what is in the picture?",
    "Could you explain this drawing to me, please?",
    "Answer with a few words: what is this?",
    "Look at the picture and say what is on it.",
    "Give me a prompt that would draw this picture.",
    "caption",
    "describe",
    "what is it",
    "?",
    "",
    "Was ist auf dem Bild zu sehen?",
    "Que voit-on sur cette image ?",
    "¿Qué hay en la imagen?",
)
_SYSTEMS = (
    "You are a helpful assistant.",
    "You describe pictures.",
    "Answer briefly.",
    "You are a careful observer who names shapes and colours.",
)


@dataclass(frozen=True, slots=True)
class Sight:
    """A scene, a 64x64 picture of it, and where the shape lies in that: 255 where it covers a pixel wholly."""

    scene: Scene
    picture: Image.Image
    coverage: Image.Image


@dataclass(frozen=True, slots=True)
class Lesson:
    """One conversation up to the model's turn, the answer wanted, and what is seen (None: there is no picture)."""

    messages: list[dict[str, object]]
    answer: str
    sight: Sight | None


def tokenizer_texts() -> list[str]:
    """What the tokenizer should write in few tokens: every caption, and the questions."""
    captions = [scene.prompt for scene in all_scenes()]
    return captions + [NO_PICTURE] * 8 + list(QUESTIONS + _SYSTEMS) * 4


def make_lesson(rng: random.Random, *, long: bool, harm: float = 1.0) -> Lesson:
    """A random lesson; a long one has a question of hundreds of characters."""
    scene = None if rng.random() < 0.06 else random_scene(rng)
    answer = scene.prompt if scene else NO_PICTURE
    text = {"type": "text", "text": _long_question(rng) if long else _question(rng)}
    parts = [text] if scene is None else rng.sample([{"type": "image"}, text], 2)
    messages: list[dict[str, object]] = [{"role": "user", "content": parts}]
    if rng.random() < 0.1:  # asked once more
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": _question(rng)}]
    if rng.random() < 0.2:
        messages.insert(0, {"role": "system", "content": rng.choice(_SYSTEMS)})
    return Lesson(messages, answer, None if scene is None else spoilt(scene, rng, harm=harm))


def _question(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        question = rng.choice(QUESTIONS)
        return question.lower() if rng.random() < 0.2 else question
    if kind < 0.8:
        return _words(rng, rng.randint(1, 12))
    return "".join(_any_character(rng) for _ in range(rng.randint(1, 24)))


def _long_question(rng: random.Random) -> str:
    return " ".join(_question(rng) for _ in range(rng.randint(3, 30)))


def _words(rng: random.Random, count: int) -> str:
    """Words of the questions in any order, colours and shapes among them: what is asked says nothing of the picture."""
    words = " ".join((*QUESTIONS, *_SYSTEMS, random_scene(rng).prompt, random_scene(rng).prompt)).split()
    return " ".join(rng.choice(words) for _ in range(count))


def _any_character(rng: random.Random) -> str:
    if rng.random() < 0.8:
        return chr(rng.randint(32, 126))
    return chr(rng.choice((rng.randint(160, 0x24F), rng.randint(0x400, 0x4FF), rng.randint(0x4E00, 0x9FFF))))


def spoilt(scene: Scene, rng: random.Random, *, harm: float = 1.0) -> Sight:
    """The scene at any size and place; in most cases, or rarer with less `harm`, warped, blurred, discoloured."""
    coverage = draw(Scene("white", scene.shape, "black"), _place(rng)).convert("L")
    plain = rng.random() > 0.8 * harm
    for chance, change in () if plain else ((0.4, _warp), (0.4, _resize), (0.5, _blur)):
        coverage = change(coverage, rng) if rng.random() < chance else coverage
    size = coverage.size
    grounds = (Image.new("RGB", size, COLOURS[scene.colour]), Image.new("RGB", size, COLOURS[scene.background]))
    picture = Image.composite(*grounds, coverage)
    for chance, change in () if plain else ((0.85, _discolour), (0.2, _compress)):
        picture = change(picture, rng) if rng.random() < chance else picture
    return Sight(scene, picture, coverage)


def _place(rng: random.Random) -> Place:
    half = rng.uniform(9, 24)
    low, high = half + 1, SIDE - half - 1
    return Place(rng.uniform(low, high), rng.uniform(low, high), half)


def _warp(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Bend it like a sheet of rubber that is held at the rim, by up to three pixels."""
    cells = 4
    step = SIDE // cells
    corners = {
        (x, y): (x * step + _bend(rng, x, cells), y * step + _bend(rng, y, cells))
        for x in range(cells + 1)
        for y in range(cells + 1)
    }
    mesh = [
        (
            (x * step, y * step, (x + 1) * step, (y + 1) * step),
            (*corners[x, y], *corners[x, y + 1], *corners[x + 1, y + 1], *corners[x + 1, y]),
        )
        for x in range(cells)
        for y in range(cells)
    ]
    return picture.transform(picture.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _bend(rng: random.Random, place: int, cells: int) -> float:
    return 0.0 if place in (0, cells) else rng.uniform(-3, 3)


def _resize(picture: Image.Image, rng: random.Random) -> Image.Image:
    """As a picture of another size and form that is made 64x64 again."""
    methods = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS)
    size = (rng.randint(28, 160), rng.randint(28, 160))
    return picture.resize(size, rng.choice(methods)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _blur(picture: Image.Image, rng: random.Random) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2.0)))


def _discolour(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Another tint, cloudy patches and grain; together less than half the way to another colour of the world."""
    noise = np.random.default_rng(rng.getrandbits(32))
    values = np.asarray(picture, np.float32)
    values = values * noise.uniform(0.9, 1.0) + noise.uniform(-14, 14, 3)
    clouds = noise.uniform(-1, 1, (6, 6, 3)) * noise.uniform(0, 22)
    values = values + np.kron(clouds, np.ones((11, 11, 1)))[:SIDE, :SIDE]
    values = values + noise.normal(0, noise.uniform(0, 14), values.shape)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _compress(picture: Image.Image, rng: random.Random) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=rng.randint(35, 95))
    return Image.open(file).convert("RGB")
