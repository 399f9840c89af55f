"""Bodies of every kind, for properties: bytes, JSON of any shape, and fields that are almost right."""

import json

from hypothesis import strategies as st
from uploads import data_url, png

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
_IMAGE_FIELDS = st.fixed_dictionaries(
    {"model": st.sampled_from(["quick", "text2image", "chat"]) | JSON, "prompt": st.just("x") | JSON},
    optional={
        "n": st.integers(-1, 12) | JSON,
        "size": st.sampled_from(["64x64", "8x8", "auto", "0x8", "9x9"]) | JSON,
        "seed": st.integers(-1, 2**64) | JSON,
        "steps": st.integers(-1, 210) | JSON,
        "guidance": st.floats() | JSON,
        "scheduler": st.sampled_from(["euler", "ddim"]) | JSON,
        "output_format": st.sampled_from(["png", "jpeg", "webp"]) | JSON,
        "output_compression": st.integers(-1, 101) | JSON,
        "response_format": st.sampled_from(["b64_json", "url"]) | JSON,
        "partial_images": st.integers(-1, 4) | JSON,
        "stream": st.booleans() | JSON,
        "image": st.just(data_url(png((8, 8)))) | JSON,
        "images": JSON,
        "mask": JSON,
        "priority": st.integers(-5, 105) | JSON,
    },
)
IMAGE_BODIES = st.binary(max_size=200) | _IMAGE_FIELDS.map(json.dumps).map(str.encode)
FORMS = st.dictionaries(
    st.sampled_from(["model", "prompt", "n", "size", "steps", "stream", "response_format", "mask"])
    | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=8),
    st.sampled_from(["quick", "text2image", "1", "true", "url", "8x8"]) | st.text(max_size=20),
    max_size=6,
)

_PARAMETERS = st.dictionaries(
    st.sampled_from(["n", "size", "steps", "seed", "guidance", "scheduler", "width", "height", "scale", "max_tokens"]),
    st.integers(-2, 70) | JSON,
    max_size=4,
)
_UNIFIED_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["chat", "draw", "see", "change"]) | JSON,
        "prompt": st.just("x") | JSON,
        "negative_prompt": JSON,
        "image": st.just(data_url(png((8, 8)))) | JSON,
        "image_path": st.just("sub/red.png") | JSON,
        "operation": st.sampled_from(["upscale", "resize", "blur"]) | JSON,
        "parameters": _PARAMETERS | JSON,
        "priority": st.integers(-5, 105) | JSON,
        "deadline_seconds": st.just(20) | JSON,
        "wait": st.booleans() | JSON,
        "type": JSON,
    },
)
UNIFIED_BODIES = st.binary(max_size=200) | _UNIFIED_FIELDS.map(json.dumps).map(str.encode)
