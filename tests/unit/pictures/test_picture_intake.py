"""What is taken in as a picture, and what becomes of it."""

import struct
import tracemalloc
import warnings
from io import BytesIO

import pytest
from picture_files import coloured, file_of, png_chunk, png_header, png_of, zeros_compressed
from PIL import Image, ImageCms

from engines.pictures.intake import FORMATS, Limits, PictureRefused, examine, read_picture

LIMITS = Limits(max_mib=4, max_megapixels=1)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind: str) -> None:
    """Formats without loss give back the very pixels; the others the same size and mode."""
    image = coloured()
    read = read_picture(file_of(image, kind, **({"lossless": True} if kind == "WEBP" else {})), LIMITS)
    assert (read.mode, read.size) == ("RGB", image.size)
    if kind not in ("JPEG", "GIF"):
        assert read.tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [
        ("1", "PNG", "RGB"),
        ("L", "PNG", "RGB"),
        ("LA", "PNG", "RGBA"),
        ("P", "PNG", "RGB"),
        ("RGBA", "PNG", "RGBA"),
        ("RGBA", "WEBP", "RGBA"),
        ("RGBA", "GIF", "RGBA"),
        ("LA", "TIFF", "RGBA"),
        ("CMYK", "JPEG", "RGB"),
        ("CMYK", "TIFF", "RGB"),
        ("YCbCr", "TIFF", "RGB"),
    ],
)
def test_every_mode_becomes_rgb_or_rgba(mode: str, kind: str, expected: str) -> None:
    """Palettes, grey and print colours are turned into what engines take, transparency where there is any."""
    image = coloured(mode=mode)
    if expected == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    picture = examine(file_of(image, kind), LIMITS)
    assert (picture.image.mode, picture.image.size) == (expected, image.size)
    assert picture.plain is (mode == "RGBA" and kind != "GIF")


def test_transparency_by_palette_or_by_one_colour_is_kept() -> None:
    """PNG's two other ways to say transparent."""
    palette = coloured(mode="P")
    by_palette = read_picture(file_of(palette, "PNG", transparency=palette.getpixel((0, 0))), LIMITS)
    by_colour = read_picture(file_of(coloured(), "PNG", transparency=(0, 0, 0)), LIMITS)
    for read in (by_palette, by_colour):
        assert read.mode == "RGBA"
        assert read.getpixel((0, 0))[3] == 0
        assert read.getpixel((9, 9))[3] == 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_are_scaled(kind: str) -> None:
    """65535 is white, half of it is half: nothing is clipped."""
    values = [0, 257, 32896, 65534, 65535]
    image = Image.new("I;16", (5, 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    read = read_picture(file_of(image, kind), LIMITS)
    assert [read.getpixel((x, 0))[0] for x in range(5)] == [0, 1, 128, 254, 255]


def test_sixteen_bits_of_colour_are_scaled() -> None:
    """A 16-bit RGB PNG keeps its upper bytes, and is not passed on as it is."""
    rows = b"\x00" + struct.pack(">6H", 65535, 32768, 0, 256, 512, 60000)
    picture = examine(png_of(2, 1, rows, depth=16), LIMITS)
    assert [picture.image.getpixel((x, 0)) for x in (0, 1)] == [(255, 128, 0), (1, 2, 234)]
    assert not picture.plain


def test_print_colours_look_right() -> None:
    """Magenta and yellow ink make red."""
    read = read_picture(file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), LIMITS)
    red, green, blue = read.getpixel((4, 4))
    assert red > 240
    assert max(green, blue) < 20


# How the camera stored it, by the orientation it noted.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
def test_pictures_stand_upright(orientation: int) -> None:
    """EXIF's orientation is applied and then forgotten."""
    upright = coloured()
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = examine(file_of(upright.transpose(STORED[orientation]), "PNG", exif=exif), LIMITS)
    assert picture.image.tobytes() == upright.tobytes()
    assert not picture.plain
    assert picture.image.info == {}
    assert dict(picture.image.getexif()) == {}


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    """One frame comes out, and the file is not passed on as it is."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    picture = examine(file_of(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True), LIMITS)
    assert picture.image.getpixel((4, 4)) == (255, 0, 0)
    assert not picture.plain


def test_several_jpegs_in_one_file_are_a_jpeg() -> None:
    """As many phones store a photograph with its preview or depth: the first is the picture."""
    content = file_of(Image.new("RGB", (16, 16), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    picture = examine(content, LIMITS)
    assert (picture.content_type, picture.image.size, picture.plain) == ("image/jpeg", (16, 16), False)


def test_a_compressed_bmp_is_refused() -> None:
    """Its decoder is so slow that a small file would keep a thread for long."""
    header = struct.pack("<2sIHHI", b"BM", 60, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, 6, 0, 0, 1, 0)
    with pytest.raises(PictureRefused, match="BMP that is compressed"):
        read_picture(
            header[:10] + struct.pack("<I", 58) + header[14:] + bytes(4) + b"\x08\x00" * 8 + b"\x00\x01", LIMITS
        )


def foreign_profile() -> bytes:
    """A profile in which red and green have changed places."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile = profile.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    count = struct.unpack(">I", profile[128:132])[0]
    places = {bytes(profile[at : at + 4]): at + 4 for at in range(132, 132 + 12 * count, 12)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    profile[red : red + 8], profile[green : green + 8] = profile[green : green + 8], profile[red : red + 8]
    return bytes(profile)


def test_a_colour_profile_is_applied() -> None:
    """A picture in other colours than sRGB looks as it was meant, and the profile is gone."""
    picture = examine(file_of(Image.new("RGB", (8, 8), (255, 0, 0)), "PNG", icc_profile=foreign_profile()), LIMITS)
    red, green, blue = picture.image.getpixel((4, 4))
    assert green > 250
    assert max(red, blue) < 5
    assert not picture.plain


def test_a_colour_profile_leaves_transparency_alone() -> None:
    """Colours are translated, alpha is not."""
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 99))
    assert read_picture(file_of(image, "PNG", icc_profile=foreign_profile()), LIMITS).getpixel((4, 4))[3] == 99


def test_srgb_and_a_broken_profile_change_nothing() -> None:
    """The one says what is assumed anyway, the other says nothing."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for icc in (srgb, b"no profile"):
        picture = examine(file_of(coloured(), "PNG", icc_profile=icc), LIMITS)
        assert picture.image.tobytes() == coloured().tobytes()
        assert picture.plain


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused(kind: str, share: float) -> None:
    """Cut anywhere: never half a picture."""
    content = file_of(coloured(200, 120), kind)
    with pytest.raises(PictureRefused, match=r"damaged|not a picture"):
        read_picture(content[: int(len(content) * share)], LIMITS)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<svg/>", b"%PDF-1.7\n", b"\x00" * 4096, b"not a picture"])
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    """In one sentence."""
    with pytest.raises(PictureRefused, match=r"empty|not a picture|damaged"):
        read_picture(content, LIMITS)


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PCX", "PDF", "EPS", "DDS"])
def test_other_formats_are_refused(kind: str) -> None:
    """Pillow could read some of these; each is one more decoder for strangers to try."""
    with pytest.raises(PictureRefused, match="not a picture that is known here"):
        read_picture(file_of(coloured(), kind), LIMITS)


def test_sizes_are_judged_from_the_header() -> None:
    """The file has no pixels at all, and yet it is refused for its size, not for being cut short."""
    for width, height in ((100_000, 100_000), (30_000, 30_000), (2000, 2000), (40_000, 1), (1, 40_000)):
        with pytest.raises(PictureRefused, match=r"megapixels|pixels a side"):
            read_picture(png_header(width, height) + png_chunk(b"IDAT", b""), LIMITS)


def test_a_file_that_is_too_large_is_refused_unread() -> None:
    """By its length alone."""
    with pytest.raises(PictureRefused, match="at most 4 MiB"):
        read_picture(bytes(4 * 1024 * 1024 + 1), LIMITS)


@pytest.mark.parametrize(
    "chunk",
    [
        lambda bomb: png_chunk(b"zTXt", b"Comment\x00\x00" + bomb),
        lambda bomb: png_chunk(b"iTXt", b"Comment\x00\x01\x00\x00\x00" + bomb),
        lambda bomb: png_chunk(b"iCCP", b"profile\x00\x00" + bomb),
    ],
    ids=["zTXt", "iTXt", "iCCP"],
)
def test_compressed_text_does_not_unfold(chunk: object) -> None:
    """64 MiB of text in a tiny PNG take no such memory."""
    assert callable(chunk)
    content = png_of(1, 1, b"\x00\x01\x02\x03", extra=chunk(zeros_compressed(64)))
    tracemalloc.start()
    try:
        with pytest.raises(PictureRefused):
            read_picture(content, LIMITS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * 1024 * 1024


def test_pixels_beyond_the_header_do_not_unfold() -> None:
    """A PNG whose pixel data is far longer than its size says is read up to its size."""
    rows = png_header(1, 1) + png_chunk(b"IDAT", zeros_compressed(64)) + png_chunk(b"IEND", b"")
    assert read_picture(rows, LIMITS).size == (1, 1)


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    """Each scan of a progressive JPEG costs as much as the whole picture."""
    content = file_of(coloured(64, 64), "JPEG", progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    with pytest.raises(PictureRefused, match="scans"):
        read_picture(content[:-2] + scan * 300 + content[-2:], LIMITS)


def test_a_tiff_of_huge_tiles_is_refused() -> None:
    """The tile is decoded whole, however small the picture."""
    entries = [
        (256, 16),
        (257, 16),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, 32768),
        (323, 32768),
        (324, 8),
        (325, 9),
    ]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    content = b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + table + bytes(4)
    with pytest.raises(PictureRefused, match="tiles of 32768 x 32768"):
        read_picture(content, LIMITS)


def test_many_frames_cost_nothing() -> None:
    """Of an animation of thousands of frames only the first is looked at."""
    first = file_of(Image.new("L", (16, 16)), "GIF")
    frame = first[first.rindex(b",") : -1]
    content = first[:-1] + frame * 20_000 + b";"
    tracemalloc.start()
    try:
        assert read_picture(content, LIMITS).size == (16, 16)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(content)


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_pixels_of_unknown_range_are_refused(mode: str) -> None:
    """Nobody can say which number is white."""
    with pytest.raises(PictureRefused, match=f"pixels of the kind {mode}"):
        read_picture(file_of(Image.new(mode, (4, 4)), "TIFF"), LIMITS)


def test_odd_files_make_no_warnings() -> None:
    """Broken EXIF and a false animation are Pillow's warnings, and nobody's concern."""
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x05\x00\x12\x01\x03\x00\x01"
    broken_exif = file_of(coloured(), "JPEG", exif=exif)
    false_animation = png_of(1, 1, b"\x00\x01\x02\x03", extra=png_chunk(b"acTL", struct.pack(">II", 0, 0)))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert read_picture(broken_exif, LIMITS).size == (24, 16)
        assert read_picture(false_animation, LIMITS).size == (1, 1)
    assert seen == []


def test_pillow_does_warn_of_these_files() -> None:
    """The test above can fail: without us Pillow would speak."""
    false_animation = png_of(1, 1, b"\x00\x01\x02\x03", extra=png_chunk(b"acTL", struct.pack(">II", 0, 0)))
    with pytest.warns(UserWarning, match="APNG"):
        Image.open(BytesIO(false_animation)).load()


def test_metadata_is_left_behind() -> None:
    """Where a photograph was taken does not travel on with a picture that was decoded."""
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    content = file_of(coloured(), "PNG", exif=exif, pnginfo=None, dpi=(300, 300))
    assert b"a secret place" in content
    assert read_picture(content, LIMITS).info == {}
