"""Pictures from words over HTTP: what is answered, and what is refused by the name of its field."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engines.diffusers.wire import GenerationBody
from tests.engines.pictures_sent import received
from tests.engines.server_process import PAINTER, server


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server around the painter, on a unix socket."""
    folder = tmp_path_factory.mktemp("engine")
    with (
        server(PAINTER, folder, model_path=folder, max_images=4) as process,
        process.wait_until_ready().client() as http,
    ):
        yield http


def generate(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/v1/images/generations", json={"prompt": "a red circle", **body})


def test_n_images_count_up_their_seeds(client: httpx.Client) -> None:
    """n images have the seeds seed, seed + 1, …, and each is what its seed draws alone."""
    together = generate(client, n=3, seed=7).json()["data"]
    assert [datum["seed"] for datum in together] == [7, 8, 9]
    alone = [generate(client, seed=seed).json()["data"][0]["b64_json"] for seed in (7, 8, 9)]
    assert [datum["b64_json"] for datum in together] == alone


def test_the_usual_size_is_within_the_limit(tmp_path: Path) -> None:
    """Where a pipeline usually draws more than may be drawn, "auto" is less, and a multiple of what it needs."""
    with (
        server(PAINTER, tmp_path, model_path=tmp_path, max_pixels=1000) as process,
        process.wait_until_ready().client() as http,
    ):
        assert generate(http).json()["size"] == generate(http, size="auto").json()["size"] == "24x24"


def test_the_answer_tells_what_was_drawn(client: httpx.Client) -> None:
    """Size, format, usage and timings are those of the drawing."""
    answer = generate(client, size="128x64", steps=3, output_format="webp").json()
    assert received(answer).size == (128, 64)
    assert (answer["size"], answer["output_format"], answer["background"]) == ("128x64", "webp", "opaque")
    assert answer["usage"]["output_tokens"] == 8 * 4
    assert answer["timings"]["steps"] == 3


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_output_formats(client: httpx.Client, output_format: str) -> None:
    """A picture comes in the format asked for."""
    answer = generate(client, output_format=output_format).json()
    assert received(answer).format == output_format.upper()


BAD_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"size": "65x64"}, "size", "multiples of 8"),
    ({"size": "65x64"}, "size", "64x64"),
    ({"size": "0x64"}, "size", "8x64"),
    ({"size": "4096x4096"}, "size", "4194304 pixels"),
    ({"size": "99999x8"}, "size", "too large"),
    ({"size": "big"}, "size", '"512x512"'),
    ({"size": 64}, "size", "string"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"n": 5}, "n", "at most 4"),
    ({"n": 11}, "n", "less than or equal to 10"),
    ({"n": 1.5}, "n", "integer"),
    ({"n": True}, "n", "integer"),
    ({"steps": 0}, "steps", "greater than or equal to 1"),
    ({"steps": 10_000}, "steps", "at most 200"),
    ({"num_inference_steps": 10_000}, "num_inference_steps", "at most 200"),
    ({"steps": 3, "num_inference_steps": 4}, "steps", "num_inference_steps is 4"),
    ({"steps": "4"}, "steps", "integer"),
    ({"guidance": float("nan")}, "guidance", "finite"),
    ({"guidance": float("inf")}, "guidance", "finite"),
    ({"guidance_scale": float("-inf")}, "guidance_scale", "finite"),
    ({"guidance": 101}, "guidance", "less than or equal to 100"),
    ({"guidance": 2, "guidance_scale": 3}, "guidance", "guidance_scale is 3"),
    ({"scheduler": "dpmp_2m"}, "scheduler", "Did you mean dpmpp_2m?"),
    ({"scheduler": "?"}, "scheduler", "Known: ddim, dpmpp_2m, euler"),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"seed": 2**63}, "seed", "less than or equal to"),
    ({"seed": 2**63 - 2, "n": 3}, "seed", "seed + 1"),
    ({"output_format": "gif"}, "output_format", "'png', 'jpeg' or 'webp'"),
    ({"output_compression": 101}, "output_compression", "less than or equal to 100"),
    ({"response_format": "url"}, "response_format", "b64_json"),
    ({"stream": True, "partial_images": 4}, "partial_images", "less than or equal to 3"),
    ({"partial_images": 1}, "partial_images", "stream"),
    ({"prompt": None}, "prompt", "string"),
    ({"prompt": ""}, "prompt", "at least 1 character"),
    ({"prompt": " \n"}, "prompt", "empty"),
    ({"prompt": 5}, "prompt", "string"),
    ({"prompt": "x" * 32_001}, "prompt", "at most 32000"),
    ({"negative_prompt": ["x"]}, "negative_prompt", "string"),
    ({"stepz": 5}, "stepz", "did you mean steps?"),
    ({"guidance_scal": 5}, "guidance_scal", "did you mean guidance_scale?"),
    ({"model": "other"}, "model", "served: pictures, tiny"),
]


@pytest.mark.parametrize(("fields", "param", "told"), BAD_FIELDS)
def test_what_cannot_be_drawn_is_named(client: httpx.Client, fields: dict[str, Any], param: str, told: str) -> None:
    """The error names the field and says what would do."""
    # As Python writes it: with NaN and Infinity, which are not JSON.
    answer = client.post("/v1/images/generations", content=json.dumps({"prompt": "a red circle"} | fields))
    error = answer.json()["error"]
    assert answer.status_code == (404 if param == "model" else 400)
    assert error["param"] == param
    assert error["type"] in ("invalid_request_error", "not_found_error")
    assert told in error["message"]


def test_what_others_send_is_let_through(client: httpx.Client) -> None:
    """Fields of OpenAI's and of other image engines mean nothing here, and are no slip of the pen."""
    others = {"moderation": "low", "style": "vivid", "user": "me", "background": "auto", "priority": 3, "x": 1}
    assert generate(client, **others, quality="high", true_cfg_scale=4, flow_shift=3).status_code == 200


def test_a_missing_prompt_is_named(client: httpx.Client) -> None:
    """With a code of its own."""
    error = client.post("/v1/images/generations", json={}).json()["error"]
    assert (error["param"], error["code"]) == ("prompt", "missing_required_parameter")


def test_null_counts_as_absent(client: httpx.Client) -> None:
    """Every field but the prompt may be null, as some clients send it."""
    nulls = dict.fromkeys([name for name in GenerationBody.model_fields if name != "prompt"])
    assert generate(client, **nulls).status_code == 200


@pytest.mark.parametrize(("path", "method", "status"), [("/v1/nothing", "GET", 404), ("/v1/images/edits", "GET", 405)])
def test_wrong_paths_have_the_same_shape(client: httpx.Client, path: str, method: str, status: int) -> None:
    """An unknown path or method is an error like any other."""
    answer = client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
