"""Pictures from words over HTTP: what is answered, and what is refused by the name of its field."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

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
