"""What engines are given instead of what callers sent."""

import asyncio
from io import BytesIO

import pytest
from PIL import Image

from controlplane.errors import RequestRejected
from controlplane.media.intake import Intake, plain_image
from engines.pictures.intake import Limits, PictureRefused, examine, read_picture

LIMITS = Limits(max_mib=4, max_megapixels=1)


def file_of(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_plain_picture_is_passed_on_untouched(kind: str) -> None:
    """Byte for byte, with the type that it really has."""
    content = file_of(Image.new("RGB", (20, 10), "red"), kind)
    assert plain_image(content, LIMITS) == (content, f"image/{kind.lower()}")


@pytest.mark.parametrize(
    ("mode", "kind", "content_type"),
    [
        ("CMYK", "JPEG", "image/jpeg"),
        ("L", "JPEG", "image/jpeg"),
        ("P", "GIF", "image/png"),
        ("RGB", "BMP", "image/png"),
        ("RGB", "TIFF", "image/png"),
        ("I;16", "PNG", "image/png"),
        ("LA", "PNG", "image/png"),
    ],
)
def test_other_pictures_are_written_anew(mode: str, kind: str, content_type: str) -> None:
    """In a format that every engine reads, plain, and the same to look at."""
    content = file_of(Image.linear_gradient("L").resize((20, 10)).convert(mode), kind)
    made = plain_image(content, LIMITS)
    assert made.content_type == content_type
    again = examine(made.content, LIMITS)
    assert again.plain
    wanted, got = read_picture(content, LIMITS).tobytes(), again.image.tobytes()
    assert max(abs(a - b) for a, b in zip(wanted, got, strict=True)) <= (8 if kind == "JPEG" else 0)


def test_a_turned_photograph_stands_upright() -> None:
    """As a JPEG still, without the note that it must be turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    made = plain_image(file_of(Image.new("RGB", (40, 20), "red"), "JPEG", exif=exif), LIMITS)
    again = examine(made.content, LIMITS)
    assert (again.image.size, again.plain, made.content_type) == ((20, 40), True, "image/jpeg")


def test_a_file_that_breaks_off_is_refused_though_its_header_is_good() -> None:
    """The whole picture is decoded before an engine sees it."""
    with pytest.raises(PictureRefused, match="cut short"):
        plain_image(file_of(Image.effect_noise((100, 100), 50).convert("RGB"), "PNG")[:-400], LIMITS)


async def test_a_refusal_names_the_callers_field() -> None:
    """As OpenAI's 400, with the field that the caller used."""
    with pytest.raises(RequestRejected) as rejected:
        await Intake(LIMITS).plain_image(b"no picture", "messages.0.content.1.image_url")
    error = rejected.value.error
    assert (error.status, error.param, error.code) == (400, "messages.0.content.1.image_url", "invalid_image")


async def test_the_loop_goes_on_while_pictures_are_decoded() -> None:
    """Several large pictures are made plain, and the loop turns meanwhile."""
    content = file_of(Image.effect_noise((900, 900), 50), "BMP")
    intake, turns = Intake(LIMITS, at_once=1), 0
    work = asyncio.gather(*(intake.plain_image(content) for _ in range(3)))
    while not work.done():
        turns += 1
        await asyncio.wait((work,), timeout=0.001)
    assert turns > 3
    assert {made.content_type for made in await work} == {"image/png"}
