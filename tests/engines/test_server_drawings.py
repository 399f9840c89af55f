"""What a pipeline cannot do is refused before it is given anything."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engines.diffusers.drawings import MAX_SIDE, asked_size, checked, default_size, fitting_size
from engines.diffusers.jobs import PipelineFacts
from engines.diffusers.options import EngineOptions
from engines.diffusers.refusals import Refused
from engines.diffusers.sources import source
from engines.diffusers.wire import ErrorAnswer, ErrorDetail, GenerationBody

FACTS = PipelineFacts(
    pipeline="FluxPipeline",
    batching="step",
    batching_reason="",
    default_width=1024,
    default_height=768,
    multiple_of=16,
    default_steps=28,
    default_guidance=3.5,
    schedulers=(),
    takes_negative_prompt=False,
    takes_image=True,
    takes_mask=False,
)
OPTIONS = EngineOptions()


def draw(facts: PipelineFacts = FACTS, **fields: Any) -> Any:
    body = GenerationBody(prompt="x", **fields)
    return checked(body, asked_size(body, facts, OPTIONS) or default_size(facts, OPTIONS), facts, OPTIONS)


def fault(refused: pytest.ExceptionInfo[Refused]) -> ErrorDetail:
    return ErrorAnswer.model_validate_json(refused.value.content()).error


def test_a_negative_prompt_is_not_dropped() -> None:
    """A pipeline without one refuses it; an empty one says nothing; with one it is taken."""
    with pytest.raises(Refused) as refused:
        draw(negative_prompt="text")
    assert (fault(refused).param, fault(refused).code) == ("negative_prompt", "unsupported_parameter")
    assert draw(negative_prompt="").negative_prompt == ""
    assert draw(replace(FACTS, takes_negative_prompt=True), negative_prompt="text").negative_prompt == "text"


def test_a_pipeline_without_named_schedulers_says_so() -> None:
    """There is nothing to list, and the message is still a sentence."""
    with pytest.raises(Refused) as refused:
        draw(scheduler="euler")
    assert "none but the pipeline's own" in fault(refused).message


def test_what_is_not_said_is_the_pipelines_own() -> None:
    """Size, steps and guidance; the scheduler stays unnamed; the seed is drawn."""
    drawing = draw()
    assert (drawing.size, drawing.steps, drawing.guidance, drawing.scheduler) == ((1024, 768), 28, 3.5, None)
    assert draw().seed != drawing.seed


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 10**7), st.sampled_from([8, 16, 32]))
def test_a_fitting_size_can_be_drawn(width: int, height: int, max_pixels: int, multiple_of: int) -> None:
    """Whatever the image: multiples, within the limit, about as many pixels as usual, of about the same ratio."""
    facts, options = replace(FACTS, multiple_of=multiple_of), EngineOptions(max_pixels=max_pixels)
    try:
        fitting = fitting_size((width, height), facts, options)
    except Refused:
        assert max(width, height) / min(width, height) * multiple_of**2 > min(max_pixels, 1024 * 768) / 4
        return
    assert all(side % multiple_of == 0 and 0 < side <= MAX_SIDE for side in fitting)
    assert fitting[0] * fitting[1] <= max_pixels


@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from(["RGB", "RGBA"]), st.booleans())
def test_a_source_has_the_size_that_is_drawn(width: int, height: int, mode: str, masked: bool) -> None:
    """Image and mask come out in the asked size, RGB and L; the mask is there exactly where something was marked."""
    image = Image.new(mode, (width, height), (9, 9, 9, 0)[: len(mode)])
    mask = Image.new("RGB", (width, height), "white") if masked else None
    start = source(image, mask, (32, 16), None, 10)
    assert (start.image.size, start.image.mode) == ((32, 16), "RGB")
    assert (start.mask is not None) == (masked or mode == "RGBA")
    if start.mask is not None:
        assert (start.mask.size, start.mask.mode, start.mask.getextrema()) == ((32, 16), "L", (255, 255))
        assert start.strength == 1.0
