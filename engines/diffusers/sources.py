"""What an edit starts from: decides what is kept of the image and what is drawn anew. Pure, and slow: for a thread."""

from PIL import Image, ImageChops

from engines.diffusers.drawings import Size, Source
from engines.diffusers.refusals import invalid
from engines.pictures.intake import Limits, PictureRefused, read_picture

STRENGTH_WITH_MASK = 1.0
STRENGTH_WITHOUT_MASK = 0.8
_OPAQUE = 255
_MARKED = 128  # inpainting draws anew where a mask is at least half white


def read(content: bytes, param: str, limits: Limits) -> Image.Image:
    """A picture, RGB or RGBA. Raises `Refused`."""
    try:
        return read_picture(content, limits)
    except PictureRefused as exc:
        raise invalid(str(exc), param, "invalid_image") from exc


def source(image: Image.Image, mask: Image.Image | None, size: Size, strength: float | None, steps: int) -> Source:
    """Brought to `size`, however its ratio is. A transparent image is its own mask. Raises `Refused`.

    `mask` has the size of `image`: its transparent pixels are drawn anew or, where it has none, its white ones.
    """
    if mask is not None and mask.size != image.size:
        raise invalid(f"is {_size(mask)}, but the image is {_size(image)}; they must have one size", "mask")
    drawn_anew = _marked(mask) if mask is not None else _transparent(image)
    if mask is not None and (drawn_anew is None or not any(drawn_anew.histogram()[_MARKED:])):
        raise invalid("marks nothing to be drawn anew: make that transparent, or white in a mask without alpha", "mask")
    return Source(
        image=_resized(_on_white(image), size, Image.Resampling.LANCZOS),
        mask=None if drawn_anew is None else _resized(drawn_anew, size, Image.Resampling.NEAREST),
        strength=_strength(strength, steps, masked=drawn_anew is not None),
    )


def _strength(asked: float | None, steps: int, *, masked: bool) -> float:
    """An edit makes the last `strength` of its steps; none would give back the image."""
    if asked is None:
        return STRENGTH_WITH_MASK if masked or steps == 1 else STRENGTH_WITHOUT_MASK
    if int(steps * asked) < 1:
        raise invalid(f"{asked:g} of {steps} steps is none; at least {1 / steps:.3g} is needed", "strength")
    return asked


def _marked(mask: Image.Image) -> Image.Image | None:
    transparent = _transparent(mask)
    return mask.convert("L") if transparent is None else transparent


def _transparent(image: Image.Image) -> Image.Image | None:
    """White where the image is transparent; None where it is so nowhere."""
    if image.mode != "RGBA":
        return None
    alpha = image.getchannel("A")
    return ImageChops.invert(alpha) if any(alpha.histogram()[:_OPAQUE]) else None


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _resized(image: Image.Image, size: Size, resample: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, resample)


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
