"""The official OpenAI client against the server: whole answers, edits, and pictures as they come."""

import base64
from collections.abc import Iterator
from io import BytesIO

import openai
import pytest
from PIL import Image

from tests.engines.pictures_sent import flat, png
from tests.engines.server_process import PAINTER, ServerProcess, server


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server around the painter, on a port."""
    folder = tmp_path_factory.mktemp("engine")
    with server(PAINTER, folder, "--port", "0", model_path=folder) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def sdk(process: ServerProcess) -> Iterator[openai.OpenAI]:
    """OpenAI's client, which is told nothing but the address."""
    with openai.OpenAI(base_url=f"{process.address}/v1", api_key="none", max_retries=0) as client:
        yield client


def decoded(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(BytesIO(base64.b64decode(text)))


def test_generate(sdk: openai.OpenAI) -> None:
    """`images.generate` gives the pictures asked for, with usage."""
    answer = sdk.images.generate(model="tiny", prompt="a red circle", n=2, size="64x32", output_format="jpeg")  # type: ignore[call-overload]
    assert [decoded(datum.b64_json).size for datum in answer.data] == [(64, 32)] * 2
    assert decoded(answer.data[0].b64_json).format == "JPEG"
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


def test_what_diffusion_adds_goes_through_extra_body(sdk: openai.OpenAI) -> None:
    """Seed, steps, guidance and negative prompt, by either name, and fields that mean nothing here."""
    bodies = [
        {"seed": 3, "steps": 2, "guidance": 5, "negative_prompt": "blue"},
        {"seed": 3, "num_inference_steps": 2, "guidance_scale": 5.0, "negative_prompt": "blue", "true_cfg_scale": 4},
    ]
    answers = [
        sdk.images.generate(
            model="tiny",
            prompt="a red circle",
            quality="high",
            style="vivid",
            user="me",
            moderation="low",
            background="auto",
            response_format="b64_json",
            extra_body=body,
        )
        for body in bodies
    ]
    first, second = (answer.data[0].b64_json for answer in answers if answer.data)
    assert first == second
    assert [answer.quality for answer in answers] == ["high", "high"]


def test_edit(sdk: openai.OpenAI) -> None:
    """`images.edit` sends a form, one image or a list of one, and a mask."""
    image = ("image.png", png(flat()), "image/png")
    mask = ("mask.png", png(flat(255, mode="L")), "image/png")
    one = sdk.images.edit(model="tiny", image=image, mask=mask, prompt="a dog", extra_body={"seed": 4})
    many = sdk.images.edit(model="tiny", image=[image], mask=mask, prompt="a dog", extra_body={"seed": "4"})
    assert one.data
    assert many.data
    assert one.data[0].b64_json == many.data[0].b64_json
    assert decoded(one.data[0].b64_json).size == (64, 64)


def test_partial_images_come_before_the_whole(sdk: openai.OpenAI) -> None:
    """A stream has the partial images in order, then the completed one; no more, no less."""
    with sdk.images.generate(
        model="tiny", prompt="a red circle", stream=True, partial_images=2, size="64x64", extra_body={"steps": 8}
    ) as stream:
        events = list(stream)
    kinds = ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.type for event in events] == kinds
    assert [event.partial_image_index for event in events[:2]] == [0, 1]  # type: ignore[union-attr]
    assert all(decoded(event.b64_json).size == (64, 64) for event in events)
    assert events[-1].usage.output_tokens == 16  # type: ignore[union-attr]


def test_a_streamed_picture_is_the_whole_one(sdk: openai.OpenAI) -> None:
    """The completed event holds the picture that the same seed gives without a stream."""
    with sdk.images.generate(model="tiny", prompt="a cat", stream=True, extra_body={"seed": 9}) as stream:
        (event,) = stream
    answer = sdk.images.generate(model="tiny", prompt="a cat", extra_body={"seed": 9})
    assert answer.data
    assert event.b64_json == answer.data[0].b64_json


def test_each_image_of_a_stream_completes(sdk: openai.OpenAI) -> None:
    """With n above 1 there is a completed event for each, marked with its place."""
    with sdk.images.generate(model="tiny", prompt="a cat", stream=True, n=3, extra_body={"seed": 1}) as stream:
        events = list(stream)
    assert sorted(event.image_index for event in events) == [0, 1, 2]  # type: ignore[union-attr]


def test_an_edit_streams_its_own_events(sdk: openai.OpenAI) -> None:
    """The events of an edit are called image_edit.*."""
    image = ("image.png", png(flat()), "image/png")
    with sdk.images.edit(model="tiny", image=image, prompt="a dog", stream=True, partial_images=1) as stream:
        assert [event.type for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_an_error_before_the_stream_is_an_ordinary_one(sdk: openai.OpenAI) -> None:
    """What can be refused at once is refused by the status, streamed or not."""
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            sdk.images.generate(model="tiny", prompt="x", stream=stream, extra_body={"steps": 0})
        assert refused.value.param == "steps"
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.images.generate(model="other", prompt="x")
    assert unknown.value.code == "model_not_found"


def test_an_error_in_a_stream_is_raised(sdk: openai.OpenAI) -> None:
    """Memory that runs short while drawing reaches a streaming caller with its code."""
    with (
        pytest.raises(openai.APIError) as failed,
        sdk.images.generate(model="tiny", prompt="fail:out_of_memory", stream=True) as stream,
    ):
        list(stream)
    assert failed.value.code == "out_of_memory"


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [("out_of_memory", 507, "out_of_memory"), ("internal", 500, "internal_error"), ("invalid", 400, "invalid_value")],
)
def test_failures_of_the_worker_have_their_status(sdk: openai.OpenAI, kind: str, status: int, code: str) -> None:
    """What a worker reports becomes a status and a code; the client is told not to try again."""
    with pytest.raises(openai.APIStatusError) as failed:
        sdk.images.generate(model="tiny", prompt=f"fail:{kind}", n=2)
    assert (failed.value.status_code, failed.value.code) == (status, code)
    assert failed.value.response.headers.get("x-should-retry", "false") == "false"
