"""What holds for pictures and operations whatever the parameters, the picture or the damage to a file."""

from io import BytesIO
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from engines.pictures.encoding import CONTENT_TYPES, Encoding, OutputFormat, encode, from_data_url, to_data_url
from engines.pictures.intake import FORMATS, Limits, PictureRefused, examine, read_picture
from engines.pictures.operations import OPERATIONS, SizeLimits, operation_of, perform
from engines.pictures.refusals import ParameterRefused

LIMITS = SizeLimits(max_pixels=40_000, max_side=1000)
TAKEN = Limits(max_mib=1, max_megapixels=0.04)
WORDS = [
    "fit",
    "fill",
    "stretch",
    "lanczos",
    "nearest",
    "horizontal",
    "both",
    "rgb",
    "l",
    "png",
    "webp",
    "red",
    "#0f08",
]
FIELDS = sorted({field for shape in OPERATIONS.values() for field in shape.model_fields})

sides = st.integers(1, 60)
modes = st.sampled_from(["RGB", "RGBA", "L", "LA"])


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    mode, size = draw(modes), (draw(sides), draw(sides))
    length = size[0] * size[1] * len(mode)
    seed = draw(st.binary(min_size=1, max_size=64))
    return Image.frombytes(mode, size, (seed * (length // len(seed) + 1))[:length])


wild = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=10),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
likely = st.one_of(st.integers(-2, 80), st.floats(-2, 40), st.sampled_from(WORDS))


@st.composite
def asked(draw: st.DrawFn, values: st.SearchStrategy[object], strange: bool) -> tuple[str, dict[str, object]]:
    name = draw(st.sampled_from(list(OPERATIONS)))
    fields = st.sampled_from([*OPERATIONS[name].model_fields, *(FIELDS if strange else ())] or ["none"])
    return name, draw(st.dictionaries(fields, values, max_size=4))


def outcome(name: str, parameters: dict[str, object], image: Image.Image) -> Image.Image | ParameterRefused:
    before = image.tobytes()
    try:
        return perform(operation_of(name, parameters), image, LIMITS)
    except ParameterRefused as refused:
        return refused
    finally:
        assert image.tobytes() == before


def check(result: Image.Image | ParameterRefused, name: str, parameters: dict[str, object]) -> None:
    if isinstance(result, ParameterRefused):
        known = {f"parameters.{field}" for field in {*parameters, *OPERATIONS[name].model_fields}}
        assert result.field in known | {"image"}
        assert result.message
        return
    assert result.width * result.height <= LIMITS.max_pixels
    assert max(result.size) <= LIMITS.max_side
    assert result.mode in ("RGB", "RGBA", "L", "LA")
    assert read_picture(encode(result, Encoding("png")), TAKEN).size == result.size


@given(asked(wild, strange=True), pictures())
def test_any_parameters_give_a_picture_or_name_a_field(
    request: tuple[str, dict[str, object]], image: Image.Image
) -> None:
    """Nonsense of any type never escapes as another error, never breaks a limit, never changes the given picture."""
    check(outcome(*request, image), *request)


@given(asked(likely, strange=False), pictures())
def test_likely_parameters_give_a_picture_or_name_a_field(
    request: tuple[str, dict[str, object]], image: Image.Image
) -> None:
    """The same where most calls succeed."""
    check(outcome(*request, image), *request)


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=5), wild, max_size=2))
def test_any_name_is_an_operation_or_is_refused(name: str, parameters: dict[str, object]) -> None:
    """With the field `operation`."""
    assume(name not in OPERATIONS)
    with pytest.raises(ParameterRefused) as refused:
        operation_of(name, parameters)
    assert refused.value.field == "operation"


@given(pictures(), st.sampled_from(["horizontal", "vertical", "both"]))
def test_flipping_twice_changes_nothing(image: Image.Image, direction: str) -> None:
    """Pixel for pixel."""
    flip = operation_of("flip", {"direction": direction})
    assert perform(flip, perform(flip, image, LIMITS), LIMITS).tobytes() == image.tobytes()


@given(pictures(), st.sampled_from([90, -90, 450, 270.0]))
def test_four_quarters_change_nothing(image: Image.Image, angle: float) -> None:
    """A quarter swaps the sides; four of them are none."""
    quarter = operation_of("rotate", {"angle": angle})
    turned = perform(quarter, image, LIMITS)
    assert turned.size == (image.height, image.width)
    for _ in range(3):
        turned = perform(quarter, turned, LIMITS)
    assert (turned.size, turned.tobytes()) == (image.size, image.tobytes())


@given(pictures(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_rotation_by_any_angle_has_the_size_it_foretold(image: Image.Image, angle: float, expand: bool) -> None:
    """Expanded it is never larger than announced and never loses more than the corners; else the size stays."""
    rotate = operation_of("rotate", {"angle": angle, "expand": expand})
    foretold, turned = rotate.size_after(image.size), perform(rotate, image, LIMITS)
    assert turned.width <= foretold[0]
    assert turned.height <= foretold[1]
    assert expand or turned.size == image.size


@given(pictures(), st.data())
def test_crops_are_exact(image: Image.Image, data: st.DataObject) -> None:
    """Size and every pixel."""
    x, y = data.draw(st.integers(0, image.width - 1)), data.draw(st.integers(0, image.height - 1))
    width, height = data.draw(st.integers(1, image.width - x)), data.draw(st.integers(1, image.height - y))
    cut = perform(operation_of("crop", {"x": x, "y": y, "width": width, "height": height}), image, LIMITS)
    assert cut.size == (width, height)
    assert all(
        cut.getpixel((column, row)) == image.getpixel((x + column, y + row))
        for column in (0, width // 2, width - 1)
        for row in (0, height // 2, height - 1)
    )


@given(pictures(), sides, sides, st.sampled_from(get_args(OPERATIONS["resize"].model_fields["mode"].annotation)))
def test_resizing_keeps_to_the_frame(image: Image.Image, width: int, height: int, mode: str) -> None:
    """Filling and stretching are exact; fitting touches the frame with one side and never crosses it."""
    made = perform(operation_of("resize", {"width": width, "height": height, "mode": mode}), image, LIMITS)
    if mode != "fit":
        assert made.size == (width, height)
    else:
        assert made.width <= width
        assert made.height <= height
        assert made.width == width or made.height == height


@given(pictures(), sides, sides)
def test_thumbnails_stay_inside(image: Image.Image, width: int, height: int) -> None:
    """The frame and the picture itself are both upper bounds."""
    made = perform(operation_of("thumbnail", {"width": width, "height": height}), image, LIMITS)
    assert made.width <= min(width, image.width)
    assert made.height <= min(height, image.height)


@given(pictures(), st.sampled_from(list(CONTENT_TYPES)), st.none() | st.integers(0, 100))
def test_every_picture_can_be_written_and_read(image: Image.Image, kind: OutputFormat, quality: int | None) -> None:
    """In every format and quality, also by way of a data URL."""
    encoding = Encoding(kind, quality)
    content = encode(image, encoding)
    assert from_data_url(to_data_url(content, encoding.content_type), 1) == content
    picture = examine(content, TAKEN)
    assert (picture.image.size, picture.content_type) == (image.size, encoding.content_type)


@given(
    st.sampled_from(FORMATS),
    st.sampled_from(["RGB", "P", "L", "1", "CMYK"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_a_damaged_file_is_a_picture_or_refused(
    kind: str, mode: str, changes: list[tuple[float, int]], cut: float
) -> None:
    """Bytes changed or missing anywhere: what comes out is within limits, or it is refused; no other error escapes."""
    content = bytearray(file_in(kind, mode))
    for place, value in changes:
        # Near the beginning stands what decides most.
        content[int(place**3 * (len(content) - 1))] = value
    taken = taken_or_refused(bytes(content[: max(1, int(len(content) * cut**0.1))]))
    if taken is not None:
        assert taken.mode in ("RGB", "RGBA")
        assert taken.width * taken.height <= TAKEN.max_megapixels * 1_000_000


def file_in(kind: str, mode: str) -> bytes:
    """A small picture in this format and mode, or in RGB where the format does not have the mode."""
    out = BytesIO()
    source = Image.linear_gradient("L").resize((40, 30)).convert("RGB").convert(mode)
    try:
        source.save(out, kind)
    except (OSError, ValueError):
        out = BytesIO()
        source.convert("RGB").save(out, kind)
    return out.getvalue()


def taken_or_refused(content: bytes) -> Image.Image | None:
    try:
        return examine(content, TAKEN).image
    except PictureRefused:
        return None
