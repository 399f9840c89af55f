"""The operations on one picture, each a typed shape of its parameters that knows how to apply itself.

To add one: write a class like the others and put it into OPERATIONS; parsing, limits, errors and the listing follow.
Pure: no I/O, and the picture that was given is never changed.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, cos, radians, sin
from typing import Annotated, ClassVar, Final, Literal, Self

from PIL import Image, ImageColor, ImageFilter, ImageOps
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from engines.pictures.encoding import Encoding, OutputFormat
from engines.pictures.refusals import ParameterRefused, unknown

Size = tuple[int, int]
Side = Annotated[int, Field(ge=1, le=65_535)]
Scale = Annotated[float, Field(gt=0, le=64)]
Resample = Literal["lanczos", "bicubic", "bilinear", "nearest"]


def _colour(text: str) -> str:
    try:
        ImageColor.getrgb(text)
    except ValueError:
        raise ValueError('not a colour; write "white", "#ff8800" or "#ff880080"') from None
    return text


Colour = Annotated[str, AfterValidator(_colour)]


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """The largest picture an operation may make: pixels in all, and on a side (every output format holds 16,383)."""

    max_pixels: int
    max_side: int = 16_383


class Operation(BaseModel, ABC):
    """One operation with its parameters. Sizes are width, height in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]

    def size_after(self, size: Size) -> Size:
        """The size it makes of a picture of that size, or one that is never less. Raises ParameterRefused."""
        return size

    def blamed(self) -> str:
        """The parameter to change when the result would be too large."""
        return "width"

    @abstractmethod
    def applied_to(self, image: Image.Image) -> Image.Image:
        """A new picture. Raises ParameterRefused."""

    def encoding(self) -> Encoding | None:
        """How the result is to be written, where the operation is about that."""
        return None


class Resize(Operation):
    """`fit` stays inside width and height, `fill` covers them and cuts what stands out, `stretch` drops the ratio."""

    name = "resize"
    width: Side | None = None
    height: Side | None = None
    scale: Scale | None = None
    mode: Literal["fit", "fill", "stretch"] = "fit"
    resample: Resample = "lanczos"

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        sides = self.width is not None or self.height is not None
        if self.scale is not None and sides:
            raise _wrong("scale", "goes alone; leave out width and height, or the scale")
        if self.scale is None and not sides:
            raise _wrong("width", "is missing; give width, height or both, or a scale")
        return self

    def size_after(self, size: Size) -> Size:
        if self.width is not None and self.height is not None:
            if self.mode != "fit":
                return self.width, self.height
            return _scaled(size, min(self.width / size[0], self.height / size[1]))
        if self.width is not None:
            return self.width, _scaled(size, self.width / size[0])[1]
        if self.height is not None:
            return _scaled(size, self.height / size[1])[0], self.height
        return _scaled(size, self.scale or 1.0)

    def blamed(self) -> str:
        return "scale" if self.scale is not None else "width" if self.width is not None else "height"

    def applied_to(self, image: Image.Image) -> Image.Image:
        size, resample = self.size_after(image.size), _RESAMPLING[self.resample]
        if self.mode == "fill":
            return ImageOps.fit(image, size, method=resample)
        return image.resize(size, resample)


class Crop(Operation):
    """Cuts out a rectangle that lies inside the picture; `x` and `y` are its left upper corner."""

    name = "crop"
    x: Annotated[int, Field(ge=0)] = 0
    y: Annotated[int, Field(ge=0)] = 0
    width: Side
    height: Side

    def size_after(self, size: Size) -> Size:
        for start, side, length, at, of in (
            (self.x, self.width, size[0], "x", "width"),
            (self.y, self.height, size[1], "y", "height"),
        ):
            if start >= length:
                raise _refused(at, f"{start} lies outside the picture, whose {of} is {length}")
            if start + side > length:
                raise _refused(of, f"{side} from {at} {start} reaches beyond the picture, whose {of} is {length}")
        return self.width, self.height

    def applied_to(self, image: Image.Image) -> Image.Image:
        return image.crop((self.x, self.y, self.x + self.width, self.y + self.height))


class Rotate(Operation):
    """Turns clockwise by `angle` degrees. `expand` makes room for the corners.

    `fill` colours what was not there; without it that is transparent, or black where there is no transparency.
    """

    name = "rotate"
    angle: float
    expand: bool = True
    fill: Colour | None = None

    def size_after(self, size: Size) -> Size:
        if not self.expand:
            return size
        if self._quarters() is not None:
            return size if self._degrees() % 180 == 0 else (size[1], size[0])
        across, down = abs(cos(radians(self._degrees()))), abs(sin(radians(self._degrees())))
        width, height = size
        # Pillow rounds the corners outwards, at most a pixel each.
        return ceil(width * across + height * down) + 2, ceil(width * down + height * across) + 2

    def blamed(self) -> str:
        return "angle"

    def applied_to(self, image: Image.Image) -> Image.Image:
        quarters = self._quarters()
        if quarters == 0:
            return image.copy()
        if quarters is not None and (self.expand or quarters == 2 or image.width == image.height):
            return image.transpose(_QUARTERS[quarters])
        fill = None if self.fill is None else ImageColor.getcolor(self.fill, image.mode)
        return image.rotate(-self._degrees(), Image.Resampling.BICUBIC, expand=self.expand, fillcolor=fill)

    def _degrees(self) -> float:
        # Twice, because a tiny negative angle is rounded up to 360 itself.
        return self.angle % 360 % 360

    def _quarters(self) -> int | None:
        return int(self._degrees() // 90) if self._degrees() % 90 == 0 else None


class Flip(Operation):
    """Mirrors: `horizontal` swaps left and right, `vertical` top and bottom."""

    name = "flip"
    direction: Literal["horizontal", "vertical", "both"] = "horizontal"

    def applied_to(self, image: Image.Image) -> Image.Image:
        return image.transpose(_FLIPS[self.direction])


class Convert(Operation):
    """Changes the colours kept (`mode`) or the file written (`format`, `quality`). White is put behind `rgb`."""

    name = "convert"
    mode: Literal["rgb", "rgba", "l"] | None = None
    format: OutputFormat | None = None
    quality: Annotated[int, Field(ge=0, le=100)] | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.mode is None and self.format is None:
            raise _wrong("format", "is missing; give a format, a mode or both")
        return self

    def applied_to(self, image: Image.Image) -> Image.Image:
        if self.mode is None:
            return image.copy()
        if self.mode == "rgba":
            return image.convert("RGBA")
        whole = image.convert("RGBA")
        behind = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
        return behind.convert("RGB" if self.mode == "rgb" else "L")

    def encoding(self) -> Encoding | None:
        return None if self.format is None else Encoding(self.format, self.quality)


class Grayscale(Operation):
    """Keeps brightness, and transparency where there is any."""

    name = "grayscale"

    def applied_to(self, image: Image.Image) -> Image.Image:
        return image.convert("LA" if image.has_transparency_data else "L")


class Blur(Operation):
    """Gaussian blur; `radius` is its standard deviation in pixels."""

    name = "blur"
    radius: Annotated[float, Field(ge=0, le=500)] = 2.0

    def applied_to(self, image: Image.Image) -> Image.Image:
        # With alpha multiplied in, the colour of what is transparent does not bleed into what is not.
        multiplied = _MULTIPLIED.get(image.mode)
        blurred = (image.convert(multiplied) if multiplied else image).filter(ImageFilter.GaussianBlur(self.radius))
        return blurred.convert(image.mode) if multiplied else blurred


class Sharpen(Operation):
    """Unsharp mask: `amount` in percent, `threshold` the least difference (0 to 255) that is sharpened."""

    name = "sharpen"
    radius: Annotated[float, Field(ge=0, le=100)] = 2.0
    amount: Annotated[int, Field(ge=0, le=1000)] = 150
    threshold: Annotated[int, Field(ge=0, le=255)] = 3

    def applied_to(self, image: Image.Image) -> Image.Image:
        mask = ImageFilter.UnsharpMask(self.radius, self.amount, self.threshold)
        if image.mode not in _MULTIPLIED:
            return image.filter(mask)
        sharp = image.convert("RGB" if image.mode == "RGBA" else "L").filter(mask)
        sharp.putalpha(image.getchannel("A"))
        return sharp


class Thumbnail(Operation):
    """Makes it small enough to stay inside width and height; never larger than it was."""

    name = "thumbnail"
    width: Side = 256
    height: Side = 256

    def size_after(self, size: Size) -> Size:
        return _scaled(size, min(1.0, self.width / size[0], self.height / size[1]))

    def applied_to(self, image: Image.Image) -> Image.Image:
        return image.resize(self.size_after(image.size), Image.Resampling.LANCZOS, reducing_gap=3.0)


class Upscale(Operation):
    """Enlarges by `scale` with Lanczos. An engine that has learned upscaling does it in its own way."""

    name = "upscale"
    scale: Annotated[float, Field(ge=1, le=16)] = 2.0

    def size_after(self, size: Size) -> Size:
        return _scaled(size, self.scale)

    def blamed(self) -> str:
        return "scale"

    def applied_to(self, image: Image.Image) -> Image.Image:
        return image.resize(self.size_after(image.size), Image.Resampling.LANCZOS)


OPERATIONS: Final[dict[str, type[Operation]]] = {
    operation.name: operation
    for operation in (Upscale, Resize, Crop, Rotate, Flip, Convert, Grayscale, Blur, Sharpen, Thumbnail)
}

_RESAMPLING: Final[dict[Resample, Image.Resampling]] = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
_FLIPS: Final = {
    "horizontal": Image.Transpose.FLIP_LEFT_RIGHT,
    "vertical": Image.Transpose.FLIP_TOP_BOTTOM,
    "both": Image.Transpose.ROTATE_180,
}
# Pillow turns the other way round.
_QUARTERS: Final = {1: Image.Transpose.ROTATE_270, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_90}
_MULTIPLIED: Final = {"RGBA": "RGBa", "LA": "La"}


def operation_of(name: str, parameters: Mapping[str, object]) -> Operation:
    """The operation that was asked for. Raises ParameterRefused, which names the field and the nearest known word."""
    shape = OPERATIONS.get(name)
    if shape is None:
        raise ParameterRefused("operation", unknown("operation", name, OPERATIONS))
    try:
        return shape.model_validate(parameters)
    except ValidationError as exc:
        raise _first_refusal(shape, exc) from exc


def perform(operation: Operation, image: Image.Image, limits: SizeLimits) -> Image.Image:
    """A new picture within the limits. Raises ParameterRefused before any work is done."""
    check_size(operation, image.size, limits)
    return operation.applied_to(image)


def check_size(operation: Operation, size: Size, limits: SizeLimits) -> None:
    """Raises ParameterRefused when the operation would make too large a picture of one of that size."""
    width, height = operation.size_after(size)
    if width * height <= limits.max_pixels and max(width, height) <= limits.max_side:
        return
    grows = width * height > size[0] * size[1]
    raise ParameterRefused(
        f"parameters.{operation.blamed()}" if grows else "image",
        f"the result would be {width} x {height}; at most {limits.max_pixels} pixels "
        f"and {limits.max_side} a side are made",
    )


def _scaled(size: Size, factor: float) -> Size:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _refused(parameter: str, message: str) -> ParameterRefused:
    return ParameterRefused(f"parameters.{parameter}", message)


def _wrong(parameter: str, message: str) -> PydanticCustomError:
    return PydanticCustomError("combination", "{message}", {"parameter": parameter, "message": message})


def _first_refusal(shape: type[Operation], exc: ValidationError) -> ParameterRefused:
    error: ErrorDetails = exc.errors(include_url=False)[0]
    parameter = str(error["loc"][0]) if error["loc"] else error.get("ctx", {}).get("parameter", "")
    if error["type"] == "extra_forbidden":
        return _refused(parameter[:80], unknown(f"parameter of {shape.name}", parameter, shape.model_fields))
    message = error["msg"].removeprefix("Value error, ")
    return _refused(parameter, message[:1].lower() + message[1:])
