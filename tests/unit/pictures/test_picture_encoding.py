"""How pictures are written, and data URLs read."""

import base64

import pytest
from picture_files import coloured
from PIL import Image

from engines.pictures.encoding import (
    CONTENT_TYPES,
    Encoding,
    OutputFormat,
    encode,
    from_data_url,
    is_data_url,
    output_format,
    to_data_url,
)
from engines.pictures.intake import Limits, PictureRefused, examine, read_picture
from engines.pictures.refusals import ParameterRefused

LIMITS = Limits()


@pytest.mark.parametrize("kind", CONTENT_TYPES)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_what_is_written_can_be_read_and_is_what_it_says(kind: OutputFormat, mode: str) -> None:
    """Every mode in every format comes back in its size, with the content type that was promised."""
    encoding = Encoding(kind)
    picture = examine(encode(coloured(mode=mode), encoding), LIMITS)
    assert (picture.image.size, picture.content_type) == ((24, 16), encoding.content_type)


def test_png_is_exact() -> None:
    """Whatever the quality says."""
    image = coloured(mode="RGBA")
    assert read_picture(encode(image, Encoding("png", 0)), LIMITS).tobytes() == image.tobytes()


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_less_quality_is_less_to_send(kind: OutputFormat) -> None:
    """From 0 to 100 the file grows, and the extremes are taken."""
    sizes = [len(encode(coloured(128, 128), Encoding(kind, quality))) for quality in (0, 50, 90, 100)]
    assert sizes == sorted(sizes)
    assert sizes[0] * 2 < sizes[-1]


def test_transparency_becomes_white_in_jpeg() -> None:
    """Not black, which is what dropping it would show."""
    read = read_picture(encode(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), Encoding("jpeg")), LIMITS)
    assert min(read.getpixel((4, 4))) > 250


@pytest.mark.parametrize("kind", CONTENT_TYPES)
def test_metadata_is_not_written(kind: OutputFormat) -> None:
    """Nothing of what Pillow remembers about the source gets into the file."""
    image = coloured()
    image.info = {"icc_profile": b"secret", "exif": b"Exif\x00\x00secret", "comment": b"secret", "xmp": b"secret"}
    assert b"secret" not in encode(image, Encoding(kind))
    assert image.info["comment"] == b"secret"


@pytest.mark.parametrize(("kind", "side"), [("webp", 16_384), ("jpeg", 65_501)])
def test_a_side_that_the_format_cannot_hold_is_refused(kind: OutputFormat, side: int) -> None:
    """By name of the field to change, before the encoder stumbles."""
    with pytest.raises(ParameterRefused, match="output_format"):
        encode(Image.new("L", (side, 1)), Encoding(kind))


def test_formats_are_found_by_name() -> None:
    """`jpg` is understood; a slip is answered with the word that was meant."""
    assert [output_format(name) for name in ("png", "jpg", "webp")] == ["png", "jpeg", "webp"]
    with pytest.raises(ParameterRefused, match='output_format: unknown format "jpge"; did you mean "jpeg"'):
        output_format("jpge")


def test_a_data_url_gives_back_its_bytes() -> None:
    """What is written is read, also with spaces, line ends, percent signs and parameters."""
    content = bytes(range(256))
    url = to_data_url(content, "image/png")
    coded = base64.b64encode(content).decode()
    for text in (
        url,
        f" {url}\n",
        f"data:image/png;charset=x;base64,{coded[:50]}\n{coded[50:]}",
        f"DATA:;base64,{coded}",
        "data:image/png;base64," + coded.replace("+", "%2B").replace("/", "%2F"),
    ):
        assert is_data_url(text)
        assert from_data_url(text, 1) == content


def test_a_data_url_without_base64_is_percent_encoded() -> None:
    """As the standard has it."""
    assert from_data_url("data:text/plain,a%20b", 1) == b"a b"


@pytest.mark.parametrize(
    "text",
    ["", "data:", "http://host/x.png", "data:image/png;base64", "data:image/png;base64,!!!", "data:a/b;base64,AAA"],
)
def test_what_is_no_data_url_is_refused(text: str) -> None:
    """In one sentence."""
    with pytest.raises(PictureRefused, match="data URL"):
        from_data_url(text, 1)


def test_a_long_data_url_is_refused_unread() -> None:
    """By its length, before it is decoded; one that just fits is taken."""
    fits = to_data_url(bytes(1024 * 1024), "image/png")
    assert len(from_data_url(fits, 1)) == 1024 * 1024
    with pytest.raises(PictureRefused, match="too long"):
        from_data_url("data:image/png;base64," + "!" * 2_000_000, 1)
