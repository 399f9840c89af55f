"""What an image request's fields mean for a batch."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.batching import image_key, image_rows

_PATH = "/v1/images/generations"
_json = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists)


@pytest.mark.parametrize(("n", "rows"), [(None, 1), (1, 1), (4, 4), ("4", 4), (0, 1), (-3, 1), (10**9, 10), ("x", 1)])
def test_an_image_is_a_row(n: object, rows: int) -> None:
    """As JSON or as a form's text; what no engine takes counts as something sensible until it is refused."""
    assert image_rows({"n": n}) == rows


def test_the_key_tells_apart_what_a_call_has_once() -> None:
    """Size and sampling do; prompt and seed do not; a field's two names are one, and so are 5 and 5.0."""
    base: dict[str, Any] = {"size": "512x512", "steps": 20, "guidance": 5}
    same = [{"prompt": "a"}, {"seed": 7}, {"guidance": 5.0}, {"guidance": None, "guidance_scale": 5}, {"n": 3}]
    other = [
        {"size": "64x64"},
        {"steps": 21},
        {"guidance": 5.5},
        {"scheduler": "euler"},
        {"strength": 0.5},
        {"negative_prompt": "x"},
    ]
    assert {image_key(_PATH, {**base, **more}) for more in same} == {image_key(_PATH, base)}
    assert len({image_key(_PATH, {**base, **more}) for more in [{}, *other]}) == 1 + len(other)
    assert image_key("/v1/images/edits", base) != image_key(_PATH, base)


@given(st.dictionaries(st.sampled_from(["n", "size", "steps", "guidance", "scheduler", "strength"]), _json))
def test_nothing_that_a_caller_writes_raises(fields: dict[str, Any]) -> None:
    """Judging is the engine's; the key stays short."""
    assert 1 <= image_rows(fields) <= 10
    assert len(image_key(_PATH, fields)) < 500
