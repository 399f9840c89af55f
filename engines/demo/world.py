"""The world that the demo models know: one coloured shape on a background of another colour.

It renders scenes, names them, reads them back out of text, and measures them in pixels without any model, so that
what a model drew or said can be checked for meaning. Pillow only; it neither loads nor trains a model.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import permutations

from PIL import Image, ImageDraw, ImageFilter

Rgb = tuple[int, int, int]
Box = tuple[float, float, float, float]

# Chosen for distance: any two differ by at least 120 in RGB, so that a soft or noisy drawing still has one nearest.
COLOURS: dict[str, Rgb] = {
    "red": (205, 0, 30),
    "green": (20, 150, 50),
    "blue": (30, 60, 225),
    "yellow": (255, 240, 60),
    "purple": (145, 40, 175),
    "orange": (255, 130, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross")
SIDE = 64

_OVERSAMPLING = 4
_MARGIN = 4.0
_HALF_SIZES = (12.0, 19.0)
_TEMPLATE_SIDE = 32
_LIKENESS_LEAST = 0.7
_AREA_LEAST = 0.02
_ASPECT_MOST = 2.0
# A pixel this far from every mixture of the two colours belongs to neither; a drawing with many such is not a scene.
_STRAY_DISTANCE = 90.0
_STRAY_MOST = 0.1


@dataclass(frozen=True, slots=True)
class Scene:
    """One shape of one colour on a background of another. Raises ValueError for words outside the world."""

    colour: str
    shape: str
    background: str

    def __post_init__(self) -> None:
        if self.colour not in COLOURS or self.background not in COLOURS or self.shape not in SHAPES:
            raise ValueError(f"no such scene in the world: {self.colour} {self.shape} on {self.background}")
        if self.colour == self.background:
            raise ValueError(f"a {self.colour} shape cannot be seen on a {self.background} background")

    @property
    def prompt(self) -> str:
        return f"{_article(self.colour)} {self.shape} on {_article(self.background)} background"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shape is drawn: its centre and half the side of the box it fills, in pixels of a 64x64 picture."""

    x: float
    y: float
    half: float


def _article(colour: str) -> str:
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour}"


def all_scenes() -> list[Scene]:
    """Every scene of the world, in a fixed order."""
    return [Scene(colour, shape, ground) for colour, ground in permutations(COLOURS, 2) for shape in SHAPES]


def random_scene(rng: random.Random) -> Scene:
    colour, background = rng.sample(sorted(COLOURS), 2)
    return Scene(colour, rng.choice(SHAPES), background)


def random_place(rng: random.Random) -> Place:
    """A place wholly inside the picture, with a margin."""
    half = rng.uniform(*_HALF_SIZES)
    low, high = half + _MARGIN, SIDE - half - _MARGIN
    return Place(rng.uniform(low, high), rng.uniform(low, high), half)


def render(scene: Scene, rng: random.Random) -> Image.Image:
    """The scene as a 64x64 RGB picture, the shape at a random place and size."""
    return draw(scene, random_place(rng))


def draw(scene: Scene, place: Place) -> Image.Image:
    """The scene as a 64x64 RGB picture with smooth edges, the shape at this place."""
    large = Image.new("RGB", (SIDE * _OVERSAMPLING, SIDE * _OVERSAMPLING), COLOURS[scene.background])
    x, y, half = (value * _OVERSAMPLING for value in (place.x, place.y, place.half))
    _draw_shape(ImageDraw.Draw(large), scene.shape, (x - half, y - half, x + half, y + half), COLOURS[scene.colour])
    return large.resize((SIDE, SIDE), Image.Resampling.BOX)


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, box: Box, fill: Rgb | int) -> None:
    left, top, right, bottom = box
    third = (right - left) / 3
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "triangle":
        pen.polygon([(left, bottom), ((left + right) / 2, top), (right, bottom)], fill=fill)
    elif shape == "cross":
        pen.rectangle((left + third, top, right - third, bottom), fill=fill)
        pen.rectangle((left, top + third, right, bottom - third), fill=fill)
    else:
        pen.rectangle(box, fill=fill)


_COLOUR_WORDS = "|".join(COLOURS)
_SHAPE_PHRASE = re.compile(rf"\b({_COLOUR_WORDS})[\s-]+(?:colou?red\s+)?({'|'.join(SHAPES)})\b")
_BACKGROUND_PHRASE = re.compile(
    rf"\b(?:on|against|over)\s+(?:(?:an?|the)\s+)?({_COLOUR_WORDS})\b|\b({_COLOUR_WORDS})\s+background\b"
)


def parse(text: str) -> Scene | None:
    """The one scene that a text speaks of; None where it speaks of none, of several, or of an impossible one."""
    plain = " ".join(text.lower().split())
    shapes = set(_SHAPE_PHRASE.findall(plain))
    grounds = {first or second for first, second in _BACKGROUND_PHRASE.findall(plain)}
    if len(shapes) != 1 or len(grounds) != 1:
        return None
    (colour, shape), background = shapes.pop(), grounds.pop()
    return None if colour == background else Scene(colour, shape, background)


def measure(image: Image.Image) -> Scene | None:
    """The scene that a picture of any size shows, by pixels alone; None where it shows no single clear shape.

    The frame's colour is the background, the commonest other colour is the shape's, and the shape is the one whose
    outline the largest connected patch of that colour resembles most.
    """
    small = _small(image)
    colours = _two_colours(small)
    if colours is None:
        return None
    background, colour = colours
    mask, strays = _split(small, COLOURS[background], COLOURS[colour])
    patch = _largest_patch(mask) if strays <= _STRAY_MOST else None
    shape = None if patch is None else _likeliest_shape(patch)
    return None if shape is None else Scene(colour, shape, background)


def _small(image: Image.Image) -> Image.Image:
    """The picture with its longer side at 64 pixels, single stray pixels removed."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return image.convert("RGB").resize(size, method).filter(ImageFilter.MedianFilter(3))


def _pixels(image: Image.Image) -> list[Rgb]:
    plain = image.tobytes()
    return list(zip(plain[0::3], plain[1::3], plain[2::3], strict=True))


@lru_cache(maxsize=1 << 16)
def _nearest_colour(pixel: Rgb) -> int:
    r, g, b = pixel
    distances = [(r - red) ** 2 + (g - green) ** 2 + (b - blue) ** 2 for red, green, blue in COLOURS.values()]
    return distances.index(min(distances))


def _two_colours(image: Image.Image) -> tuple[str, str] | None:
    """The names of the background's and the shape's colour."""
    named = Image.frombytes("L", image.size, bytes(_nearest_colour(pixel) for pixel in _pixels(image)))
    # At a soft edge between red and yellow lies a thin line of orange: only pixels inside one colour are counted.
    least, most = (named.filter(kind(3)).tobytes() for kind in (ImageFilter.MinFilter, ImageFilter.MaxFilter))
    width, height = image.size
    frame, inside = Counter[int](), Counter[int]()
    for place, (low, high) in enumerate(zip(least, most, strict=True)):
        if low == high:
            inside[low] += 1
            x, y = place % width, place // width
            frame[low] += min(x, y, width - 1 - x, height - 1 - y) < 3
    if not frame:
        return None
    background = frame.most_common(1)[0][0]
    del inside[background]
    if not inside:
        return None
    names = list(COLOURS)
    return names[background], names[inside.most_common(1)[0][0]]


def _split(image: Image.Image, background: Rgb, colour: Rgb) -> tuple[Image.Image, float]:
    """Which pixels are nearer to the shape's colour, as a mask of 255 and 0, and the share that are no mixture."""
    red, green, blue = background
    to_red, to_green, to_blue = (end - start for start, end in zip(background, colour, strict=True))
    length = to_red**2 + to_green**2 + to_blue**2
    mask, strays = bytearray(), 0
    for r, g, b in _pixels(image):
        r, g, b = r - red, g - green, b - blue
        way = (r * to_red + g * to_green + b * to_blue) / length
        mask.append(255 if way > 0.5 else 0)
        way = min(1.0, max(0.0, way))
        off = (r - way * to_red) ** 2 + (g - way * to_green) ** 2 + (b - way * to_blue) ** 2
        strays += off > _STRAY_DISTANCE**2
    return Image.frombytes("L", image.size, bytes(mask)), strays / len(mask)


def _largest_patch(mask: Image.Image) -> Image.Image | None:
    """The largest connected part of the mask, cut to its box; None where it is a speck or a strip."""
    width, height = mask.size
    left_over = {place for place, value in enumerate(mask.tobytes()) if value}
    largest: set[int] = set()
    while left_over:
        patch = _take_patch(left_over, width)
        largest = max(largest, patch, key=len)
    if len(largest) < _AREA_LEAST * width * height:
        return None
    alone = Image.frombytes("L", mask.size, bytes(255 * (place in largest) for place in range(width * height)))
    cut = alone.crop(alone.getbbox())
    return cut if max(cut.size) <= _ASPECT_MOST * min(cut.size) else None


def _take_patch(places: set[int], width: int) -> set[int]:
    """Removes one connected patch from the places, row after row numbered, and returns it."""
    start = places.pop()
    patch, edge = {start}, [start]
    while edge:
        place = edge.pop()
        column = place % width
        beside = [place - width, place + width] + [place - 1] * (column > 0) + [place + 1] * (column < width - 1)
        found = places.intersection(beside)
        places -= found
        patch |= found
        edge.extend(found)
    return patch


def _likeliest_shape(patch: Image.Image) -> str | None:
    size = (_TEMPLATE_SIDE, _TEMPLATE_SIDE)
    plain = patch.resize(size, Image.Resampling.BOX if min(patch.size) > _TEMPLATE_SIDE else Image.Resampling.BILINEAR)
    likeness = {shape: _likeness(plain.tobytes(), _template(shape)) for shape in SHAPES}
    best = max(likeness, key=likeness.__getitem__)
    return best if likeness[best] >= _LIKENESS_LEAST else None


def _likeness(one: bytes, other: bytes) -> float:
    """What two masks share, as a part of what either covers: 1 for equal ones."""
    shared = sum(map(min, one, other))
    return shared / sum(map(max, one, other))


@cache
def _template(shape: str) -> bytes:
    side = _TEMPLATE_SIDE * _OVERSAMPLING
    large = Image.new("L", (side, side), 0)
    _draw_shape(ImageDraw.Draw(large), shape, (0, 0, side - 1, side - 1), 255)
    return large.resize((_TEMPLATE_SIDE, _TEMPLATE_SIDE), Image.Resampling.BOX).tobytes()
