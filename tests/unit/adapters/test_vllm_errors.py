"""vLLM's errors in OpenAI's terms."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import NormalError
from adapters.vllm.errors import normalise, public_message

TYPES = {
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "server_error",
}


def answered(status: int, message: str, kind: str, param: str | None = None) -> NormalError:
    """What becomes of an error in vLLM's own shape."""
    fields = {"message": message, "type": kind, "param": param, "code": status}
    return normalise(status, orjson.dumps({"error": fields}))


def test_an_unknown_model() -> None:
    """As vLLM 0.32 says it: the integer code and the CamelCase type are gone, the sentence stays."""
    error = answered(404, "The model `nope` does not exist. Valid aliases: smol.", "NotFoundError", "model")
    assert error == NormalError(
        404, "The model `nope` does not exist. Valid aliases: smol.", "not_found_error", "model", "model_not_found"
    )


def test_a_prompt_that_is_too_long() -> None:
    """OpenAI's own code, which clients look for."""
    message = "This model's maximum context length is 2048 tokens. However, your prompt contains 2049 input tokens."
    error = answered(400, message, "BadRequestError", "input_tokens")
    assert (error.type, error.code, error.param) == (
        "invalid_request_error",
        "context_length_exceeded",
        "input_tokens",
    )


@pytest.mark.parametrize(("param", "expected"), [("body.messages", "messages"), ("body.1", None), (None, None)])
def test_the_parameter_is_named_as_the_caller_knows_it(param: str | None, expected: str | None) -> None:
    """Without FastAPI's "body.", and no place in broken JSON."""
    assert answered(400, "wrong", "Bad Request", param).param == expected


def test_a_busy_engine_may_be_tried_again() -> None:
    """Over its queue limit vLLM has done nothing with the request."""
    error = answered(503, "The engine is currently busy and cannot accept new requests.", "Service Unavailable")
    assert (error.status, error.type, error.code, error.retryable) == (503, "server_error", "engine_busy", True)


def test_an_engine_that_shuts_down_may_be_tried_again() -> None:
    """During its drain vLLM answers new requests with a 500 that is none."""
    error = answered(500, "cannot schedule new futures after shutdown", "InternalServerError")
    assert (error.status, error.retryable, error.code) == (503, True, "engine_stopping")


def test_a_dead_engine_core_is_not_tried_again() -> None:
    """It may have worked on the request; and nobody outside can look at a "stack trace above"."""
    error = answered(500, "EngineCore encountered an issue. See stack trace (above).", "InternalServerError")
    assert (error.status, error.type, error.retryable) == (500, "server_error", False)
    assert "stack" not in error.message


@pytest.mark.parametrize(
    ("status", "body", "message", "kind"),
    [
        (401, b'{"error":"Unauthorized"}', "Unauthorized", "authentication_error"),
        (404, b'{"detail":"Not Found"}', "Not Found", "not_found_error"),
        (405, b'{"detail":"Method Not Allowed"}', "Method Not Allowed", "invalid_request_error"),
        (404, b'{"type":"error","error":{"type":"NotFoundError","message":"no"}}', "no", "not_found_error"),
        (
            400,
            b'{"object":"error","message":"old","type":"BadRequestError","code":400}',
            "old",
            "invalid_request_error",
        ),
        (500, b"Internal Server Error", "Internal Server Error", "server_error"),
        (502, b"<html><body>Bad</body></html>", "the engine answered 502 Bad Gateway", "server_error"),
        (429, b"", "the engine answered 429 Too Many Requests", "rate_limit_error"),
        (
            400,
            b'data: {"error": {"message": "in a stream"}}\n\ndata: [DONE]\n\n',
            "in a stream",
            "invalid_request_error",
        ),
        (200, b"{}", "the engine answered 200 OK", "server_error"),
        (599, b"[]", "the engine answered 599", "server_error"),
    ],
)
def test_every_shape_gets_a_message_and_a_type(status: int, body: bytes, message: str, kind: str) -> None:
    """A bare string, FastAPI's detail, Anthropic's, the old shape, text, markup, an event, nothing at all."""
    error = normalise(status, body)
    assert (error.message, error.type) == (message, kind)


def test_the_list_of_fastapi_names_message_and_parameter() -> None:
    """Its `detail` can be a list of findings: the first one is told."""
    body = b'{"detail":[{"loc":["body","temperature"],"msg":"too low","type":"x"},{"loc":[],"msg":"y"}]}'
    error = normalise(422, body)
    assert (error.message, error.param) == ("too low", "temperature")


@pytest.mark.parametrize(
    ("message", "public"),
    [
        ("cannot read /models/llm/config.json here", "cannot read <path> here"),
        ("at '/root/.cache/vllm/x' failed", "at '<path>' failed"),
        ("connect to 127.0.0.1:8001 refused", "connect to <engine> refused"),
        ("connect to localhost:8001 refused", "connect to <engine> refused"),
        ("HTTPConnectionPool(host='engine-0', port=8000): refused", "HTTPConnectionPool(<engine>): refused"),
        ("see http://engine-0:8000/v1/models", "see <engine>"),
        ("see http://10.0.0.7/v1/models", "see <engine>"),
        ("see http://gpu1.svc/v1", "see <engine>"),
        ("ipc:///tmp/abc gone", "<engine> gone"),
        ("unix:/run/im/a.sock gone", "<engine> gone"),
        ('x\n  File "/opt/vllm/a.py", line 3, in f\n    g()\ny', "x\ny"),
        ("<Foo object at 0x7f00aa>", "<Foo object>"),
    ],
)
def test_nothing_of_the_machine_gets_out(message: str, public: str) -> None:
    """Paths, sockets, internal hosts and addresses, stack traces and pointers are taken out of the text."""
    assert public_message(message) == public


@pytest.mark.parametrize(
    "message",
    [
        "cannot fetch https://example.com/cats/1.png",
        "use /v1/chat/completions instead",
        "1/2 of 3/4 and/or more",
        "temperature must be in [0, 2], got -3",
        "expected 'text' or 'image_url'",
    ],
)
def test_what_the_caller_wrote_or_needs_stays(message: str) -> None:
    """Public addresses, API paths and slashes in prose are no secrets."""
    assert public_message(message) == message


def test_long_messages_are_cut() -> None:
    """A validation error can echo a whole body."""
    assert len(answered(400, "x" * 100_000, "Bad Request").message) == 2000


@pytest.mark.parametrize(
    ("status", "said", "code", "told"),
    [
        (400, "At most 1 image(s) may be provided in one prompt.", "too_many_images", "at most 1 picture may be given"),
        (400, "At most 4 image(s) may be provided in one prompt.", "too_many_images", "at most 4 pictures may be"),
        (400, "At most 0 video(s) may be provided in one prompt.", "unsupported_media", "takes no video"),
        (
            400,
            "Image dimensions 13000x13000 (169000000 pixels) exceed the maximum of 25000000 pixels. Set"
            " VLLM_MAX_IMAGE_PIXELS to increase this limit.",
            "invalid_image",
            "the picture is 13000x13000 pixels; this model takes at most 25 megapixels",
        ),
        (
            500,
            "Image size (400000000 pixels) exceeds limit of 178956970 pixels, could be decompression bomb DOS attack.",
            "invalid_image",
            "the picture has 400 megapixels",
        ),
        (400, "Failed to load image: image file is truncated", "invalid_image", "cut short"),
        (
            400,
            "Failed to load image: cannot identify image file <_io.BytesIO object at 0x7f00aa>",
            "invalid_image",
            "no picture of a known format",
        ),
        (400, "Failed to load image: bad EXIF", "invalid_image", "cannot read the picture: bad EXIF"),
        (400, "Non-base64 digit found", "invalid_image", "not base64"),
        (500, "Only base64 data URLs are supported for now.", "invalid_image", "inside the request"),
        (
            400,
            "The URL must be from one of the allowed domains: ['x.invalid']. Input URL domain: 127.0.0.1",
            "invalid_image",
            "inside the request",
        ),
        (
            500,
            "Cannot load local files without `--allowed-local-media-path`.",
            "invalid_image",
            "inside the request",
        ),
        (400, "/models/smol is not a multimodal model", "images_not_supported", "this model takes no pictures"),
    ],
)
def test_what_is_wrong_with_a_picture(status: int, said: str, code: str, told: str) -> None:
    """As vLLM 0.32 says it, partly as 500 and with flags that no caller has: a 400 that the caller can act upon."""
    error = answered(status, said, "BadRequestError")
    assert (error.status, error.type, error.code, error.param) == (400, "invalid_request_error", code, "image_url")
    assert told in error.message
    assert "VLLM" not in error.message
    assert not error.retryable


SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "type", "code", "param", "loc", "msg"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(st.integers(-5, 999), st.binary(max_size=200) | SHAPES.map(orjson.dumps))
def test_any_body_gives_a_sane_error(status: int, body: bytes) -> None:
    """Whatever an engine sends, the answer to the caller is well-formed: an error status, a sentence, a known type."""
    error = normalise(status, body)
    assert 400 <= error.status <= 599
    assert error.message
    assert error.type in TYPES
    assert (
        error.code is None or (error.code and not error.code.isdigit()) or error.code in body.decode("utf-8", "replace")
    )
    assert error.param is None or error.param
    assert orjson.dumps([error.message, error.param, error.code])


@given(st.text(alphabet="/.:@'\"<> ab1\n", max_size=80))
def test_cleaning_is_stable(message: str) -> None:
    """What was cleaned needs no second cleaning, and it never raises."""
    once = public_message(message)
    assert public_message(once) == once
