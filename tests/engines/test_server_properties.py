"""Whatever is sent, the server answers with a picture or with a 4xx that names a field, and stays well."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engines.pictures_sent import data_url, encoded, flat, png, received
from tests.engines.server_process import PAINTER, server

EDGES = [0, -1, 1, 2**31, 2**63 - 1, 2**63, 10**400, 0.0, -0.0, 1e308, float("nan"), float("inf"), 10_000]
JUNK = st.one_of(
    st.none(), st.booleans(), st.sampled_from(EDGES), st.floats(), st.integers(), st.text(max_size=30),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "prompt": st.text(min_size=1, max_size=80),
    "model": st.sampled_from(["pictures", "tiny", "other"]),
    "negative_prompt": st.text(max_size=20),
    "n": st.integers(0, 4),
    "size": st.one_of(
        st.sampled_from(["auto", "64x64", "32x128", "0x0", "99999x99999", "64X64", "１６x16", "64x64\n"]),
        st.tuples(st.integers(0, 200), st.integers(0, 200)).map(lambda sides: f"{sides[0]}x{sides[1]}"),
        st.tuples(st.integers(1, 16), st.integers(1, 16)).map(lambda sides: f"{sides[0] * 8}x{sides[1] * 8}"),
    ),
    "seed": st.one_of(st.integers(0, 2**63 - 1), st.integers()),
    "steps": st.integers(0, 30),
    "num_inference_steps": st.integers(0, 30),
    "guidance": st.floats(0, 110),
    "guidance_scale": st.floats(0, 110),
    "scheduler": st.sampled_from(["ddim", "euler", "Euler", "nonsense", ""]),
    "output_format": st.sampled_from(["png", "jpeg", "webp", "gif"]),
    "output_compression": st.integers(-1, 101),
    "response_format": st.sampled_from(["b64_json", "url"]),
    "quality": st.sampled_from(["auto", "high", "hd"]),
    "partial_images": st.integers(0, 4),
    "stream": st.booleans(),
    "strength": st.floats(0, 1.1),
}
PICTURES = [
    png(flat()),
    png(flat((9, 9, 9, 0), (40, 24), "RGBA")),
    encoded(flat(mode="L", colour=9), "JPEG"),
    b"",
    b"GIF89a",
]
MEASURED = settings(deadline=None, suppress_health_check=list(HealthCheck))


def bodies(required: tuple[str, ...] = ("prompt",)) -> st.SearchStrategy[dict[str, Any]]:
    """Mostly sensible bodies, where one field may be anything."""
    sensible = st.fixed_dictionaries(
        {name: FIELDS[name] for name in required},
        optional={name: each for name, each in FIELDS.items() if name not in required},
    )
    spoilt = st.dictionaries(st.sampled_from(sorted(FIELDS)), JUNK, max_size=1)
    return st.tuples(sensible, spoilt).map(lambda parts: parts[0] | parts[1])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of one server that lives through all of it."""
    folder = tmp_path_factory.mktemp("engine")
    options = {"max_steps": 20, "max_pixels": 128 * 128, "max_image_megapixels": 1}
    with server(PAINTER, folder, model_path=folder, **options) as process:
        with process.wait_until_ready().client() as http:
            yield http
        process.terminate()
        assert process.wait() == 0
        assert not [line for line in process.log if "Traceback" in line], "\n".join(process.log)


def check(answer: httpx.Response, known: set[str]) -> None:
    """A picture, a stream that ends with one, or a 4xx in OpenAI's shape about one of these fields."""
    if answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream"):
        assert '"type":"image_' in answer.text
        assert "event: error" not in answer.text
    elif answer.status_code == 200:
        received(answer.json())
    else:
        assert 400 <= answer.status_code < 500, answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["param"] in known, error
        assert error["param"] in error["message"]


def sent(client: httpx.Client, path: str, body: object) -> httpx.Response:
    # As Python writes it: with NaN and Infinity, which are not JSON.
    return client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


@settings(MEASURED, max_examples=250)
@given(bodies())
def test_generations(client: httpx.Client, body: dict[str, Any]) -> None:
    """Every body for a generation is drawn, or refused by the name of one of its fields."""
    check(sent(client, "/v1/images/generations", body), set(body))


@settings(MEASURED, max_examples=120)
@given(bodies(), st.sampled_from(PICTURES), st.sampled_from([None, *PICTURES]))
def test_edits(client: httpx.Client, body: dict[str, Any], image: bytes, mask: bytes | None) -> None:
    """Every edit in JSON, too, with whatever image and mask."""
    pictures = {"image": data_url(image)} | ({} if mask is None else {"mask": data_url(mask)})
    check(sent(client, "/v1/images/edits", body | pictures), {*body, *pictures})


@settings(MEASURED, max_examples=100)
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.text(max_size=10), max_size=3), st.sampled_from(PICTURES))
def test_forms(client: httpx.Client, texts: dict[str, str], image: bytes) -> None:
    """Every form with whatever texts."""
    answer = client.post("/v1/images/edits", data={"prompt": "x", **texts}, files={"image": ("a.png", image)})
    check(answer, {*texts, "image", "prompt"})


@settings(MEASURED, max_examples=150)
@given(
    st.sampled_from(["upscale", "resize", "crop", "rotate", "flip", "convert", "grayscale", "blur", "thumbnail", "?"]),
    st.dictionaries(
        st.sampled_from(["scale", "width", "height", "x", "angle", "radius", "format", "mode", "fill", "other"]),
        st.one_of(JUNK, st.integers(1, 100), st.sampled_from(["png", "rgb", "red", "fill"])), max_size=3,
    ),
    st.sampled_from(PICTURES),
)  # fmt: skip
def test_operations(client: httpx.Client, operation: str, parameters: dict[str, Any], image: bytes) -> None:
    """Every operation with whatever parameters."""
    body = {"operation": operation, "parameters": parameters, "image": data_url(image)}
    known = {
        "operation",
        "image",
        "parameters",
        *(f"parameters.{name}" for name in [*parameters, "width", "height", "angle", "format"]),
    }
    check(sent(client, "/v1/images/process", body), known)


@settings(MEASURED, max_examples=100)
@given(
    st.sampled_from(["/v1/images/generations", "/v1/images/edits", "/v1/images/process"]),
    st.one_of(
        st.binary(max_size=100),
        JUNK.map(lambda value: json.dumps(value).encode()),
        st.sampled_from(
            [b"[" * 100_000, b'{"prompt": "\\ud800"}', b'{"prompt": "x"', b"\xff\xfe", b'{"n": 1, "n": 2}']
        ),
    ),
)
def test_bodies_that_are_no_objects(client: httpx.Client, path: str, content: bytes) -> None:
    """What is not JSON, or no object, is a 400 that says so; nothing else happens."""
    error = client.post(path, content=content).json()["error"]
    assert error["code"] in ("invalid_json", "missing_required_parameter"), error
