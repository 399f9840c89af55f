"""Tasks as calls on OpenAI's wire and back: what is written, what is refused, what an unreadable answer becomes."""

from __future__ import annotations

import base64
import io
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adapters.errors import EngineProtocolError
from adapters.tasks import (
    ImageProcessing,
    ImageToText,
    Picture,
    Task,
    TaskRefused,
    TextToImage,
    TextToText,
    openai_call,
    openai_result,
)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, kind)
    return buffer.getvalue()


PICTURE = Picture(encoded("PNG"), "image/png")
URL = "data:image/png;base64," + base64.b64encode(PICTURE.content).decode()
TASKS: list[Task] = [
    TextToText("hello"),
    TextToImage("a circle"),
    ImageToText(PICTURE),
    ImageProcessing(PICTURE, "blur"),
]


def body(task: Task) -> dict[str, Any]:
    """The path's body, which is the fields and nothing else."""
    call = openai_call(task, "m")
    fields = orjson.loads(call.body)
    assert fields == call.fields
    assert fields["model"] == "m"
    return dict(fields)


def test_a_text_is_a_chat() -> None:
    """One user message, and the parameters as they are."""
    assert body(TextToText("hello", {"max_tokens": 3, "anything": [1]})) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 3,
        "anything": [1],
    }


def test_an_image_is_a_part_of_a_chat() -> None:
    """Inlined, before the question; without one a description is asked for."""
    content = body(ImageToText(PICTURE, "what is it"))["messages"][0]["content"]
    assert content == [{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": "what is it"}]
    assert body(ImageToText(PICTURE))["messages"][0]["content"][1]["text"] == "Describe this image."


def test_a_drawing_has_one_size() -> None:
    """Width and height become OpenAI's size, whatever they are: the engine judges them."""
    fields = body(TextToImage("a circle", "blue", {"width": 64, "height": "32", "seed": 1}))
    assert fields == {
        "model": "m",
        "prompt": "a circle",
        "negative_prompt": "blue",
        "size": "64x32",
        "seed": 1,
        "response_format": "b64_json",
    }


def test_an_operation_keeps_its_own_parameters() -> None:
    """What concerns the answer stands outside of them."""
    fields = body(ImageProcessing(PICTURE, "blur", {"radius": 2, "output_format": "webp"}))
    assert fields == {
        "model": "m",
        "operation": "blur",
        "parameters": {"radius": 2},
        "output_format": "webp",
        "image": URL,
    }


@pytest.mark.parametrize(
    ("task", "param"),
    [
        (TextToText("x", {"stream": True}), "parameters.stream"),
        (TextToText("x", {"n": 2}), "parameters.n"),
        (ImageToText(PICTURE, "x", {"messages": []}), "parameters.messages"),
        (TextToImage("x", None, {"response_format": "url"}), "parameters.response_format"),
        (TextToImage("x", None, {"width": 8}), "parameters.width"),
        (TextToImage("x", None, {"width": 8, "height": 8, "size": "8x8"}), "parameters.width"),
    ],
)
def test_what_the_mapping_writes_itself_is_refused(task: Task, param: str) -> None:
    """By its place."""
    with pytest.raises(TaskRefused) as refused:
        openai_call(task, "m")
    assert refused.value.param == param


def test_a_text_comes_back_with_its_counts() -> None:
    """Under one pair of names, whatever the engine calls them."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    answer = orjson.dumps({"choices": [{"message": {"content": "hi"}}], "usage": usage})
    result = openai_result(TextToText("x"), answer)
    assert (result.text, result.pictures) == ("hi", ())
    assert result.usage == {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}


@pytest.mark.parametrize(
    ("kind", "content_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")]
)
def test_pictures_come_back_as_what_they_are(kind: str, content_type: str) -> None:
    """By their first bytes, not by what the engine says; with seeds, and how it was done."""
    content = encoded(kind)
    data = [{"b64_json": base64.b64encode(content).decode(), "seed": seed} for seed in (1, 2)]
    answer = orjson.dumps({"data": data, "size": "2x2", "method": "lanczos", "output_format": "gif"})
    result = openai_result(TextToImage("x"), answer)
    assert result.pictures == (Picture(content, content_type),) * 2
    assert result.details == {"size": "2x2", "method": "lanczos", "seeds": [1, 2]}


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        (TASKS[0], b""),
        (TASKS[0], b'{"choices": []}'),
        (TASKS[0], b'{"choices": [{"message": {"content": [1]}}]}'),
        (TASKS[1], b'{"data": []}'),
        (TASKS[1], b'{"data": [{"b64_json": "#"}]}'),
        (TASKS[1], '{"data": [{"b64_json": "ä"}]}'.encode()),
        (TASKS[3], b'{"data": [{"b64_json": "R0lGODlh"}]}'),
    ],
)
def test_an_answer_that_is_none_is_the_engines_fault(task: Task, answer: bytes) -> None:
    """No text, no pictures, no base64, or a picture of a kind that nobody asked for."""
    with pytest.raises(EngineProtocolError):
        openai_result(task, answer)


@given(
    st.sampled_from(TASKS),
    st.binary(max_size=50)
    | st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["data", "b64_json", "choices", "message", "content", "usage"]), inner)
        ),
    ).map(orjson.dumps),
)
def test_any_answer_is_a_result_or_a_protocol_error(task: Task, answer: bytes) -> None:
    """Whatever an engine sends, nothing else comes out, and a result is what its task is answered with."""
    try:
        result = openai_result(task, answer)
    except EngineProtocolError:
        return
    if isinstance(task, TextToText | ImageToText):
        assert isinstance(result.text, str)
    else:
        assert result.pictures
