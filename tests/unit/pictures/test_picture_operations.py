"""Each operation by example; tests/property has what holds for all parameters."""

import pytest
from picture_files import coloured
from PIL import Image

from engines.pictures.operations import OPERATIONS, SizeLimits, operation_of, perform
from engines.pictures.refusals import ParameterRefused

LIMITS = SizeLimits(max_pixels=1_000_000)


def done(name: str, image: Image.Image, **parameters: object) -> Image.Image:
    return perform(operation_of(name, parameters), image, LIMITS)


@pytest.mark.parametrize(
    ("parameters", "size"),
    [
        ({"width": 48}, (48, 32)),
        ({"height": 8}, (12, 8)),
        ({"scale": 0.5}, (12, 8)),
        ({"scale": 2}, (48, 32)),
        ({"width": 10, "height": 10}, (10, 7)),
        ({"width": 10, "height": 10, "mode": "fill"}, (10, 10)),
        ({"width": 10, "height": 40, "mode": "stretch"}, (10, 40)),
        ({"width": 1000, "height": 16, "mode": "fit"}, (24, 16)),
        ({"scale": 0.001}, (1, 1)),
    ],
)
def test_resize_makes_the_size_that_was_asked_for(parameters: dict[str, object], size: tuple[int, int]) -> None:
    """By one side, both, or a scale; fitting, filling or stretching."""
    assert done("resize", coloured(), **parameters).size == size


def test_fill_keeps_the_ratio_and_the_middle() -> None:
    """A wide picture made square loses its sides, not its shape."""
    image = Image.new("RGB", (60, 20), "red")
    image.paste("blue", (20, 0, 40, 20))
    filled = done("resize", image, width=20, height=20, mode="fill", resample="nearest")
    assert filled.getcolors() == [(400, (0, 0, 255))]


def test_crop_cuts_where_it_was_told() -> None:
    """Pixel for pixel."""
    image = coloured()
    cut = done("crop", image, x=3, y=2, width=5, height=4)
    assert cut.size == (5, 4)
    assert cut.getpixel((0, 0)) == image.getpixel((3, 2))
    assert cut.getpixel((4, 3)) == image.getpixel((7, 5))


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"x": 24, "width": 1, "height": 1}, "parameters.x"),
        ({"y": 99, "width": 1, "height": 1}, "parameters.y"),
        ({"x": 20, "width": 5, "height": 1}, "parameters.width"),
        ({"y": 0, "width": 5, "height": 17}, "parameters.height"),
    ],
)
def test_a_crop_beyond_the_picture_is_refused(parameters: dict[str, object], field: str) -> None:
    """Nothing is padded in silence."""
    with pytest.raises(ParameterRefused) as refused:
        done("crop", coloured(), **parameters)
    assert refused.value.field == field


def test_rotation_is_clockwise() -> None:
    """What was at the top left is at the top right after a quarter."""
    image = coloured()
    turned = done("rotate", image, angle=90)
    assert turned.size == (16, 24)
    assert turned.getpixel((15, 0)) == image.getpixel((0, 0))
    assert done("rotate", image, angle=-270).tobytes() == turned.tobytes()


def test_rotation_fills_the_corners() -> None:
    """With the colour given; without one they are transparent, where there is transparency."""
    red = done("rotate", Image.new("RGB", (40, 40), "blue"), angle=45, fill="#ff0000")
    assert red.getpixel((0, 0)) == (255, 0, 0)
    assert red.getpixel((red.width // 2, red.height // 2)) == (0, 0, 255)
    assert done("rotate", Image.new("RGBA", (40, 40), "blue"), angle=45).getpixel((0, 0))[3] == 0
    assert done("rotate", Image.new("RGB", (40, 30), "blue"), angle=45, expand=False).size == (40, 30)


def test_flip_mirrors() -> None:
    """Left and right, top and bottom, or both."""
    image = coloured()
    corner = image.getpixel((0, 0))
    assert done("flip", image).getpixel((23, 0)) == corner
    assert done("flip", image, direction="vertical").getpixel((0, 15)) == corner
    assert done("flip", image, direction="both").getpixel((23, 15)) == corner


def test_convert_changes_colours_or_the_file() -> None:
    """Transparent pixels turn white in RGB and in grey; a format is for whoever writes the file."""
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert done("convert", clear, mode="rgb").getpixel((0, 0)) == (255, 255, 255)
    assert done("convert", clear, mode="l").getpixel((0, 0)) == 255
    assert done("convert", coloured(), mode="rgba").mode == "RGBA"
    encoding = operation_of("convert", {"format": "webp", "quality": 40}).encoding()
    assert encoding is not None
    assert (encoding.output_format, encoding.quality) == ("webp", 40)
    assert operation_of("flip", {}).encoding() is None


def test_grayscale_keeps_transparency() -> None:
    """Grey with alpha where there was alpha, grey where there was none."""
    image = coloured(mode="RGBA")
    image.putalpha(7)
    assert done("grayscale", image).getpixel((0, 0))[-1] == 7
    assert done("grayscale", coloured()).mode == "L"


def test_blur_spreads_and_does_not_bleed() -> None:
    """A white point is spread; the colour of transparent pixels does not show."""
    point = Image.new("RGB", (21, 21))
    point.putpixel((10, 10), (255, 255, 255))
    blurred = done("blur", point, radius=2)
    assert 0 < blurred.getpixel((12, 10))[0] < 255
    assert done("blur", point, radius=0).tobytes() == point.tobytes()
    half = Image.new("RGBA", (20, 20), (0, 255, 0, 0))
    half.paste((255, 0, 0, 255), (0, 0, 10, 20))
    red, green, _blue, alpha = done("blur", half, radius=3).getpixel((11, 10))
    assert alpha > 0
    assert red > 200
    assert green < 30


def test_sharpen_makes_edges_stronger() -> None:
    """The step between two greys grows; transparency is untouched."""
    image = Image.new("RGBA", (20, 20), (100, 100, 100, 77))
    image.paste((150, 150, 150, 77), (10, 0, 20, 20))
    sharp = done("sharpen", image, radius=2, amount=200, threshold=0)
    assert sharp.getpixel((9, 10))[0] < 100
    assert sharp.getpixel((10, 10))[0] > 150
    assert sharp.getchannel("A").getcolors() == [(400, 77)]


def test_a_thumbnail_never_grows() -> None:
    """It stays inside the frame and keeps the ratio."""
    assert done("thumbnail", coloured(400, 100), width=100, height=100).size == (100, 25)
    assert done("thumbnail", coloured(), width=100, height=100).size == (24, 16)


def test_upscale_is_lanczos_here() -> None:
    """Twice as large unless told otherwise; what a learned model does is the engine's."""
    image = coloured()
    assert done("upscale", image).tobytes() == image.resize((48, 32), Image.Resampling.LANCZOS).tobytes()
    assert done("upscale", image, scale=3.5).size == (84, 56)


@pytest.mark.parametrize(
    ("name", "parameters", "field", "words"),
    [
        ("upscal", {}, "operation", 'did you mean "upscale"'),
        ("Flip", {}, "operation", 'did you mean "flip"'),
        ("", {}, "operation", "there are upscale, resize"),
        ("resize", {"widht": 3}, "parameters.widht", 'did you mean "width"'),
        ("grayscale", {"a": 1}, "parameters.a", "it takes none"),
        ("resize", {}, "parameters.width", "is missing"),
        ("resize", {"scale": 2, "width": 3}, "parameters.scale", "goes alone"),
        ("resize", {"width": 0}, "parameters.width", "greater than or equal to 1"),
        ("resize", {"width": "3"}, "parameters.width", "valid integer"),
        ("resize", {"width": True}, "parameters.width", "valid integer"),
        ("resize", {"scale": float("nan")}, "parameters.scale", "finite"),
        ("resize", {"scale": 2.0, "mode": "fitt"}, "parameters.mode", "'fit', 'fill' or 'stretch'"),
        ("crop", {"width": 3}, "parameters.height", "required"),
        ("rotate", {"angle": float("inf")}, "parameters.angle", "finite"),
        ("rotate", {"angle": 1, "fill": "reddish"}, "parameters.fill", "not a colour"),
        ("upscale", {"scale": 17}, "parameters.scale", "less than or equal to 16"),
        ("convert", {}, "parameters.format", "is missing"),
        ("convert", {"format": "bmp"}, "parameters.format", "'png', 'jpeg' or 'webp'"),
    ],
)
def test_a_mistake_is_named(name: str, parameters: dict[str, object], field: str, words: str) -> None:
    """The field, and the word that was meant or the values there are."""
    with pytest.raises(ParameterRefused) as refused:
        operation_of(name, parameters)
    assert refused.value.field == field
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("name", "parameters", "field"),
    [
        ("resize", {"width": 20_000}, "parameters.width"),
        ("resize", {"height": 20_000}, "parameters.height"),
        ("resize", {"scale": 64}, "parameters.scale"),
        ("upscale", {"scale": 16}, "parameters.scale"),
        ("rotate", {"angle": 45}, "parameters.angle"),
    ],
)
def test_a_result_beyond_the_limit_is_refused_before_any_work(
    name: str, parameters: dict[str, object], field: str
) -> None:
    """By the parameter that makes it large."""
    with pytest.raises(ParameterRefused, match=r"the result would be \d+ x \d+; at most 1000000 pixels") as refused:
        perform(operation_of(name, parameters), coloured(1000, 900), LIMITS)
    assert refused.value.field == field


def test_a_picture_beyond_the_limit_is_the_pictures_fault() -> None:
    """No parameter makes it smaller, so the picture is named; what makes it small is done."""
    large = Image.new("L", (2000, 1000))
    with pytest.raises(ParameterRefused, match="image: the result would be 2000 x 1000"):
        done("flip", large)
    assert done("thumbnail", large).size == (256, 128)


def test_the_registry_has_what_was_promised() -> None:
    """All ten, by the names callers use, each with parameters that describe themselves."""
    promised = "upscale resize crop rotate flip convert grayscale blur sharpen thumbnail"
    assert list(OPERATIONS) == promised.split()
    assert all(shape.__doc__ and shape.model_json_schema() for shape in OPERATIONS.values())
