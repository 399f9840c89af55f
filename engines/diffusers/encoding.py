"""A picture as a file."""

from io import BytesIO

from PIL.Image import Image


def encoded(image: Image, output_format: str, compression: int | None) -> bytes:
    out = BytesIO()
    quality = {} if compression is None or output_format == "png" else {"quality": compression}
    image.save(out, output_format.upper(), **quality)
    return out.getvalue()
