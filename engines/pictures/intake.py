"""Turns untrusted bytes into a picture, or says in one sentence why not.

Sizes are judged from the header, before a pixel is decoded. What comes out is RGB or RGBA with 8 bits a channel,
upright, in sRGB and without metadata. Knows nothing of where the bytes came from.
"""

import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
PLAIN_FORMATS: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
PILLOW_MEGAPIXELS: Final = 178
"""Above this Pillow itself refuses a picture; a larger limit would promise what cannot be kept."""

_MIB = 1024 * 1024
_ORIENTATION = 0x0112
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_JPEG_SCANS = 256
# 32-bit numbers say nothing of which one is white; LAB cannot be converted by Pillow alone.
_UNKNOWN_RANGE = ("I", "F", "LAB")
# What Pillow's decoders let out when a file is broken: each plugin has its own way to stumble.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
)


class PictureRefused(Exception):
    """The bytes are no picture that is taken. The message is one sentence for the caller."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest picture taken: MiB of the file, millions of pixels, pixels on a side."""

    max_mib: float = 20
    max_megapixels: float = 64
    max_side: int = 32_768


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: `image` is RGB or RGBA. `content_type` is that of the bytes it came from.

    `plain`: the bytes already were what `image` is, so every decoder sees the same picture in them.
    """

    image: Image.Image
    content_type: str
    plain: bool


def read_picture(content: bytes, limits: Limits) -> Image.Image:
    """RGB or RGBA, 8 bits a channel; the first frame of an animation. Raises PictureRefused."""
    return examine(content, limits).image


def examine(content: bytes, limits: Limits) -> Picture:
    """The picture, and whether its bytes can be passed on as they are. Raises PictureRefused."""
    # Pillow reports odd files through `warnings`; for a stranger's file they concern nobody, and a filter for its
    # modules, unlike catch_warnings, is safe with threads.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    _check_length(content, limits)
    with _opened(content) as opened:
        _check_size(opened, limits)
        _check_kind(opened)
        _check_effort(opened, content, limits)
        plain = _is_plain(opened)
        content_type = _content_type(opened)
        try:
            image = _plain(opened)
        except _BROKEN as exc:
            raise PictureRefused(f"the picture is damaged or cut short: {_reason(exc)}") from exc
    image.info = {}
    return Picture(image, content_type, plain)


def _check_length(content: bytes, limits: Limits) -> None:
    if not content:
        raise PictureRefused("the picture is empty")
    if len(content) > limits.max_mib * _MIB:
        raise PictureRefused(f"the picture has {len(content) / _MIB:.1f} MiB; at most {limits.max_mib:g} MiB are taken")


def _opened(content: bytes) -> ImageFile.ImageFile:
    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as exc:
        raise PictureRefused(f"not a picture that is known here; send one of {', '.join(FORMATS)}") from exc
    except Image.DecompressionBombError as exc:
        raise PictureRefused(f"the picture has more than {PILLOW_MEGAPIXELS} megapixels") from exc
    except _BROKEN as exc:
        raise PictureRefused(f"the picture's header is damaged: {_reason(exc)}") from exc


def _check_size(opened: Image.Image, limits: Limits) -> None:
    width, height = opened.size
    if width < 1 or height < 1:
        raise PictureRefused(f"the picture has no pixels: it is {width} x {height}")
    if max(width, height) > limits.max_side:
        raise PictureRefused(f"the picture is {width} x {height}; at most {limits.max_side} pixels a side are taken")
    if width * height > limits.max_megapixels * 1_000_000:
        raise PictureRefused(
            f"the picture is {width} x {height}, {width * height / 1_000_000:.1f} megapixels; "
            f"at most {limits.max_megapixels:g} are taken"
        )


def _check_kind(opened: Image.Image) -> None:
    if opened.mode in _UNKNOWN_RANGE:
        raise PictureRefused(f"pixels of the kind {opened.mode} are not taken; save it with 8 or 16 bits a channel")


def _check_effort(opened: ImageFile.ImageFile, content: bytes, limits: Limits) -> None:
    """A small picture can still cost much: endless scans, tiles larger than itself, a decoder written in Python."""
    if _content_type(opened) == "image/jpeg" and content.count(b"\xff\xda") > _JPEG_SCANS:
        raise PictureRefused(f"the JPEG has more than {_JPEG_SCANS} scans")
    if any(tile.codec_name == "bmp_rle" for tile in opened.tile):
        raise PictureRefused("a BMP that is compressed is not taken; send a PNG")
    if opened.format == "TIFF":
        tags = getattr(opened, "tag_v2", {})
        width, length = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
        if not _fits(width, length, limits):
            raise PictureRefused(f"the TIFF has tiles of {width} x {length} pixels, more than the limit")


def _fits(width: object, length: object, limits: Limits) -> bool:
    return isinstance(width, int) and isinstance(length, int) and width * length <= limits.max_megapixels * 1_000_000


def _content_type(opened: Image.Image) -> str:
    # What phones store as several JPEGs in one file is a JPEG to whoever reads the first.
    return "image/jpeg" if opened.format == "MPO" else Image.MIME[opened.format or ""]


def _is_plain(opened: ImageFile.ImageFile) -> bool:
    try:
        return (
            opened.format in PLAIN_FORMATS
            and opened.mode in ("RGB", "RGBA")
            and "transparency" not in opened.info
            and not getattr(opened, "is_animated", False)
            and not any(";16" in str(tile.args) for tile in opened.tile)
            and opened.getexif().get(_ORIENTATION, 1) == 1
            and _foreign_profile(opened) is None
        )
    except _BROKEN:
        return False


def _plain(opened: ImageFile.ImageFile) -> Image.Image:
    opened.load()
    profile = _foreign_profile(opened)
    image = _eight_bits(_upright(opened))
    if profile is not None:
        image = _in_srgb(image, profile)
    if image.mode in ("RGB", "RGBA") and "transparency" not in image.info:
        # A plain Image, not the plugin's class with the file behind it.
        return image.copy() if isinstance(image, ImageFile.ImageFile) else image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _upright(opened: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(opened)
    except _BROKEN:
        # Broken EXIF says nothing about which way is up; the pixels are still good.
        return opened


def _eight_bits(image: Image.Image) -> Image.Image:
    """16 bits of grey are scaled, not clipped as a plain conversion would."""
    if image.mode.startswith("I;16"):
        image.info.pop("transparency", None)
        return image.convert("I").point([value // 257 for value in range(65536)], "L")
    return image


def _foreign_profile(opened: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The colour profile, where there is one other than sRGB that can be read."""
    icc = opened.info.get("icc_profile")
    if not icc or opened.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return None
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        return None if "srgb" in ImageCms.getProfileName(profile).lower() else profile
    except (ImageCms.PyCMSError, *_BROKEN):
        return None


def _in_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        changed = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode)
    except ImageCms.PyCMSError:
        # A profile for other colours than the picture's: viewers ignore it, and so do we.
        return image
    return image if changed is None else changed


def _reason(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200] or type(exc).__name__
