"""vLLM's complaints about pictures in OpenAI's words: some it answers as 500, some name flags that no caller has.

Looks at the sentence alone, which is all that vLLM tells. The status of what is found here is always 400.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

_INSIDE = "pictures must come inside the request, as data: URLs in base64"


class PictureFault(NamedTuple):
    """What is wrong with a picture, as the caller can mend it; `code` is what our own intake says."""

    message: str
    code: str


_Told = Callable[[re.Match[str]], str]


def _says(text: str) -> _Told:
    return lambda _: text


_FAULTS: tuple[tuple[re.Pattern[str], str, _Told], ...] = (
    (
        re.compile(r"^At most 0 (\w+)\(s\) may be provided in one prompt"),
        "unsupported_media",
        lambda found: f"this model takes no {found[1]}",
    ),
    (
        re.compile(r"^At most (\d+) image\(s\) may be provided in one prompt"),
        "too_many_images",
        lambda found: f"at most {found[1]} picture{'s' if found[1] != '1' else ''} may be given in one request",
    ),
    (
        re.compile(r"^Image dimensions (\d+x\d+) \(\d+ pixels\) exceed the maximum of (\d+) pixels"),
        "invalid_image",
        lambda found: f"the picture is {found[1]} pixels; this model takes at most {int(found[2]) / 1e6:g} megapixels",
    ),
    (
        re.compile(r"^Image size \((\d+) pixels\) exceeds limit of \d+ pixels, could be decompression bomb"),
        "invalid_image",
        lambda found: f"the picture has {int(found[1]) / 1e6:g} megapixels, more than any decoder takes",
    ),
    (
        re.compile(r"^Failed to load image: image file is truncated"),
        "invalid_image",
        _says("the picture is cut short"),
    ),
    (
        re.compile(r"^Failed to load image: cannot identify image file"),
        "invalid_image",
        _says("this is no picture of a known format"),
    ),
    (
        re.compile(r"^Failed to load image: (.*)"),
        "invalid_image",
        lambda found: f"cannot read the picture: {found[1]}",
    ),
    (
        re.compile(r"^(?:Non-base64 digit found|Incorrect padding|Invalid base64)"),
        "invalid_image",
        _says("the picture's data: URL is not base64"),
    ),
    (re.compile(r"^Only base64 data URLs are supported"), "invalid_image", _says(_INSIDE)),
    (
        re.compile(
            r"^(?:The URL must be from one of the allowed domains|Cannot load local files|The URL must be either)"
        ),
        "invalid_image",
        _says(_INSIDE),
    ),
    (
        re.compile(r"is not a multimodal model|does not support multimodal inputs", re.IGNORECASE),
        "images_not_supported",
        _says("this model takes no pictures"),
    ),
)


def picture_fault(message: str) -> PictureFault | None:
    """The fault that a message of vLLM's tells of; None when it speaks of something else."""
    for pattern, code, told in _FAULTS:
        found = pattern.search(message)
        if found:
            return PictureFault(told(found), code)
    return None
