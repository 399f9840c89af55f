"""The world of coloured shapes: what it renders is what it measures, and what it says is what it reads."""

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from engines.demo.world import (
    COLOURS,
    SHAPES,
    SIDE,
    Place,
    Scene,
    all_scenes,
    draw,
    measure,
    parse,
    random_place,
    random_scene,
    render,
)

SCENES = st.sampled_from(all_scenes())
SEEDS = st.integers(0, 2**32 - 1)
PLACES = SEEDS.map(lambda seed: random_place(random.Random(seed)))


def noisy(image: Image.Image, amplitude: int, seed: int) -> Image.Image:
    """The picture with uniform noise of this amplitude, either way, in every channel."""
    rng = random.Random(seed)
    up, down = (
        Image.frombytes("RGB", image.size, bytes(rng.choices(range(amplitude + 1), k=3 * image.width * image.height)))
        for _ in range(2)
    )
    return ImageChops.subtract(ImageChops.add(image, up), down)


def test_the_world_has_every_pair_of_two_colours_in_every_shape() -> None:
    """Eight colours and four shapes give 224 scenes, none twice."""
    assert len(set(all_scenes())) == len(all_scenes()) == len(COLOURS) * (len(COLOURS) - 1) * len(SHAPES) == 224


@pytest.mark.parametrize("scene", all_scenes(), ids=lambda scene: scene.prompt)
def test_a_rendered_scene_measures_as_itself_wherever_it_lies(scene: Scene) -> None:
    """The smallest and the largest shape in every corner, and random places, measure as what was rendered."""
    corners = [
        Place(x, y, half)
        for half in (12.0, 19.0)
        for x in (half + 4, SIDE - half - 4)
        for y in (half + 4, SIDE - half - 4)
    ]
    rng = random.Random(scene.prompt)
    assert all(measure(draw(scene, place)) == scene for place in corners)
    assert measure(render(scene, rng)) == scene


@settings(max_examples=150, deadline=None)
@given(scene=SCENES, place=PLACES, blur=st.floats(0, 1.5), amplitude=st.integers(0, 60), seed=SEEDS)
def test_soft_edges_and_noise_do_not_change_what_is_measured(
    scene: Scene, place: Place, blur: float, amplitude: int, seed: int
) -> None:
    """A blurred, noisy rendering, as a small model leaves it, still measures as its scene."""
    soft = draw(scene, place).filter(ImageFilter.GaussianBlur(blur))
    assert measure(noisy(soft, amplitude, seed)) == scene


@settings(max_examples=100, deadline=None)
@given(
    scene=SCENES,
    place=PLACES,
    side=st.integers(40, 400),
    method=st.sampled_from([Image.Resampling.NEAREST, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS]),
)
def test_a_resized_picture_measures_as_its_scene(
    scene: Scene, place: Place, side: int, method: Image.Resampling
) -> None:
    """Whatever size a picture is brought to, upscaled or reduced, it shows the same scene."""
    assert measure(draw(scene, place).resize((side, side), method)) == scene


@settings(max_examples=50, deadline=None)
@given(scene=SCENES, place=PLACES, quality=st.integers(60, 95))
def test_a_wide_canvas_and_a_lossy_format_change_nothing(scene: Scene, place: Place, quality: int) -> None:
    """The shape on a canvas that is wider than high, through JPEG and an alpha channel, measures as its scene."""
    canvas = Image.new("RGB", (96, 64), COLOURS[scene.background])
    canvas.paste(draw(scene, place), (16, 0))
    packed = io.BytesIO()
    canvas.save(packed, "JPEG", quality=quality, subsampling=0)
    assert measure(Image.open(packed).convert("RGBA")) == scene


def test_what_shows_no_single_clear_shape_measures_as_nothing() -> None:
    """A blank picture, static, a speck, a strip and a third colour are no scene."""
    blank = Image.new("RGB", (64, 64), COLOURS["green"])
    speck, strip = blank.copy(), blank.copy()
    ImageDraw.Draw(speck).rectangle((30, 30, 35, 35), fill=COLOURS["red"])
    ImageDraw.Draw(strip).rectangle((4, 28, 60, 36), fill=COLOURS["red"])
    third = draw(Scene("red", "square", "green"), Place(20, 20, 14))
    ImageDraw.Draw(third).rectangle((38, 20, 60, 60), fill=COLOURS["white"])
    static = Image.frombytes("RGB", (64, 64), random.Random(7).randbytes(3 * 64 * 64))
    grey = Image.new("L", (1, 1), 128)
    assert [measure(image) for image in (blank, speck, strip, third, static, grey)] == [None] * 6


@pytest.mark.parametrize("lacks", ["left half", "bottom half"])
def test_half_a_shape_is_not_the_whole(lacks: str) -> None:
    """A circle cut in half is not taken for a circle."""
    scene = Scene("blue", "circle", "white")
    image = draw(scene, Place(32, 32, 18))
    box = (0, 0, 32, 64) if lacks == "left half" else (0, 32, 64, 64)
    image.paste(COLOURS["white"], box)
    assert measure(image) != scene


@given(scene=SCENES)
def test_a_prompt_reads_back_as_its_scene(scene: Scene) -> None:
    """parse is the inverse of prompt, whatever the case."""
    assert parse(scene.prompt) == parse(scene.prompt.upper()) == scene


@pytest.mark.parametrize(
    "text",
    [
        "A red circle on a blue background.",
        "The picture shows an red circle, on the BLUE background!",
        "red circle on blue",
        "a red-coloured circle against a blue background".replace("-", " "),
        "  There is\na red  circle.\nBlue background  ",
    ],
)
def test_a_free_wording_reads_as_the_scene(text: str) -> None:
    """Case, articles, punctuation and line breaks do not hide the scene."""
    assert parse(text) == Scene("red", "circle", "blue")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        "a circle on a blue background",
        "a red circle and a green square on a blue background",
        "a red circle on a blue background or on a green background",
        "a red circle on a red background",
        "a pink circle on a blue background",
        "a redcircle on a blue background",
    ],
)
def test_a_text_without_one_clear_scene_reads_as_none(text: str) -> None:
    """Missing, doubled, impossible and unknown words give no scene instead of a guess."""
    assert parse(text) is None


@pytest.mark.parametrize("words", [("pink", "circle", "red"), ("red", "star", "blue"), ("red", "circle", "red")])
def test_a_scene_outside_the_world_cannot_be_made(words: tuple[str, str, str]) -> None:
    """Unknown words and a shape of the background's colour are refused at once."""
    with pytest.raises(ValueError, match=words[0]):
        Scene(*words)


def test_the_same_seed_gives_the_same_scene_and_picture() -> None:
    """Nothing but the given random numbers decides what is drawn."""
    one, other = (random.Random(5), random.Random(5))
    first, second = random_scene(one), random_scene(other)
    assert first == second
    assert render(first, one).tobytes() == render(second, other).tobytes()
