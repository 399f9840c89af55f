"""Operations over HTTP, by a server that has no pipeline."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.engines.pictures_sent import bomb, data_url, flat, png, received
from tests.engines.server_process import REAL, ServerProcess, server


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server without --model-path, started as the control plane starts it."""
    with server(REAL, tmp_path_factory.mktemp("engine"), max_pixels=1_000_000) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def client(process: ServerProcess) -> Iterator[httpx.Client]:
    with process.client() as http:
        yield http


LARGE = data_url(png(flat(size=(500, 500))))


def ask(client: httpx.Client, operation: str, image: bytes | None = None, **fields: Any) -> httpx.Response:
    body = {"operation": operation, "image": data_url(image or png(flat(size=(64, 32)))), **fields}
    return client.post("/v1/images/process", json=body)


@pytest.mark.parametrize(
    ("operation", "parameters", "size"),
    [
        ("upscale", {"scale": 2}, (128, 64)),
        ("resize", {"width": 16}, (16, 8)),
        ("crop", {"width": 5, "height": 6}, (5, 6)),
        ("rotate", {"angle": 90}, (32, 64)),
        ("flip", {}, (64, 32)),
        ("convert", {"format": "webp"}, (64, 32)),
        ("grayscale", {}, (64, 32)),
        ("blur", {"radius": 1}, (64, 32)),
        ("sharpen", {}, (64, 32)),
        ("thumbnail", {"width": 8, "height": 8}, (8, 4)),
    ],
)
def test_each_operation_answers(
    client: httpx.Client, operation: str, parameters: dict[str, Any], size: tuple[int, int]
) -> None:
    """The answer holds the changed picture and says its size, its format and how it was made."""
    answer = ask(client, operation, parameters=parameters).json()
    image = received(answer)
    assert image.size == size
    assert (answer["size"], answer["operation"]) == (f"{size[0]}x{size[1]}", operation)
    assert answer["output_format"] == (image.format or "").lower()
    assert answer["method"] == ("lanczos" if operation == "upscale" else "pillow")


def test_a_form_does_the_same(client: httpx.Client) -> None:
    """A multipart body, the picture named image or file, gives what JSON gives."""
    whole = ask(client, "rotate", parameters={"angle": 90}).json()["data"]
    for name in ("image", "file"):
        answer = client.post(
            "/v1/images/process",
            data={"operation": "rotate", "parameters": json.dumps({"angle": 90})},
            files={name: ("a.png", png(flat(size=(64, 32))))},
        )
        assert answer.json()["data"] == whole


def test_the_result_is_written_as_asked(client: httpx.Client) -> None:
    """Format and quality are those of the body; what contradicts the operation is refused."""
    noisy = png(Image.effect_noise((256, 256), 90))
    small, large = (
        len(ask(client, "flip", noisy, output_format="jpeg", output_compression=quality).json()["data"][0]["b64_json"])
        for quality in (5, 95)
    )
    assert small * 3 < large
    refused = ask(client, "convert", parameters={"format": "png"}, output_format="jpeg").json()["error"]
    assert refused["param"] == "output_format"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"operation": "upscal"}, "operation"),
        ({"operation": 5}, "operation"),
        ({"operation": "upscale", "parameters": {"scale": 0}}, "parameters.scale"),
        ({"operation": "upscale", "parameters": {"scale": 16}, "image": LARGE}, "parameters.scale"),
        ({"operation": "crop", "parameters": {"width": 100, "height": 1}}, "parameters.width"),
        ({"operation": "blur", "parameters": {"radios": 1}}, "parameters.radios"),
        ({"operation": "blur", "parameters": "radius"}, "parameters"),
        ({"operation": "blur", "output_format": "tiff"}, "output_format"),
        ({"operation": "blur", "image": data_url(bomb())}, "image"),
        ({"operation": "blur", "image": "/etc/passwd"}, "image"),
        ({"operation": "blur", "image": None}, "image"),
        ({}, "operation"),
    ],
)
def test_what_cannot_be_done_is_named(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    """An unknown operation or parameter, or one out of range, is refused by its path in the body."""
    answer = client.post("/v1/images/process", json={"image": data_url(png(flat())), **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_not_a_number_is_refused(client: httpx.Client) -> None:
    """JSON's NaN and Infinity, which Python writes, reach no operation."""
    for literal in ("NaN", "Infinity", "-Infinity", "1e999"):
        parameters = f'{{"radius": {literal}}}'
        body = f'{{"operation": "blur", "image": "{LARGE}", "parameters": {parameters}}}'
        error = client.post("/v1/images/process", content=body).json()["error"]
        assert error["param"] == "parameters.radius"
        form = {"operation": "blur", "parameters": parameters}
        answer = client.post("/v1/images/process", data=form, files={"image": png(flat())})
        assert answer.json()["error"]["param"] == "parameters.radius"


def test_without_a_pipeline_the_rest_says_so(client: httpx.Client) -> None:
    """Drawing is refused with what to do; health, metrics and models answer."""
    for path in ("/v1/images/generations", "/v1/images/edits", "/sleep", "/wake_up"):
        answer = client.post(path, json={"prompt": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_pipeline")
    assert client.get("/v1/pipeline").json()["error"]["code"] == "no_pipeline"
    assert client.get("/health").json() == {"status": "ready"}
    assert client.get("/is_sleeping").json() == {"is_sleeping": False}
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["pictures", "tiny"]
    assert 'diffusers_requests_total{kind="image_process"' in client.get("/metrics").text


def test_without_a_pipeline_nothing_heavy_is_loaded(process: ServerProcess) -> None:
    """torch is not among the files that the process has mapped."""
    assert not [line for line in process.mapped_files() if "torch" in line]
    assert [line for line in process.mapped_files() if "PIL" in line]


def test_the_result_of_an_operation_is_kept(client: httpx.Client) -> None:
    """An operation under an id is fetched again by it."""
    body = {"operation": "flip", "image": data_url(png(flat()))}
    answer = client.post("/v1/images/process", json=body, headers={"X-Request-Id": "flip-1"})
    assert answer.headers["x-request-id"] == "flip-1"
    assert client.get("/v1/requests/flip-1").json()["status"] == "finished"
    assert client.get("/v1/requests/flip-1/result").content == answer.content
