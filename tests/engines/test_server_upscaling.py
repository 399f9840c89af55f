"""Upscaling where a learned upscaler is configured, here one that leaves a mark."""

import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.engines.pictures_sent import BLUE, RED, data_url, flat, png, received
from tests.engines.server_process import PAINTER, server


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server with an upscaler and without a pipeline."""
    folder = tmp_path_factory.mktemp("engine")
    with server(PAINTER, folder, upscaler=str(folder)) as process, process.wait_until_ready().client() as http:
        yield http


def ask(client: httpx.Client, operation: str, colour: tuple[int, int, int] = BLUE) -> httpx.Response:
    body = {"operation": operation, "image": data_url(png(flat(colour))), "parameters": {"scale": 3}}
    return client.post("/v1/images/process", json=body)


def test_the_learned_upscaler_is_used_and_named(client: httpx.Client) -> None:
    """Upscale is done by the upscaler, which the answer names; resize is not."""
    learned, plain = ask(client, "upscale").json(), ask(client, "resize").json()
    assert (learned["method"], plain["method"]) == ("sharpener-x4", "pillow")
    assert (learned["size"], plain["size"]) == ("192x192", "192x192")
    assert (received(learned).getpixel((0, 0)), received(plain).getpixel((0, 0))) == (RED, BLUE)


def test_memory_that_runs_short_fails_one_request(client: httpx.Client) -> None:
    """Out of memory is a 507 with its code, and the next picture is upscaled."""
    answer = ask(client, "upscale", (0, 0, 0))
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "out_of_memory")
    assert ask(client, "upscale").status_code == 200


def test_while_it_upscales_everything_else_goes_on(client: httpx.Client) -> None:
    """A long upscaling keeps neither health nor other operations waiting, and ends when it is cancelled."""
    body = {"operation": "upscale", "image": data_url(png(flat((255, 255, 255))))}
    answers: list[httpx.Response] = []
    headers = {"X-Request-Id": "long"}
    caller = threading.Thread(
        target=lambda: answers.append(client.post("/v1/images/process", json=body, headers=headers))
    )
    caller.start()
    while client.get("/v1/requests/long").json().get("status") != "running":
        pass
    assert client.get("/health").status_code == 200
    for _ in range(5):
        assert ask(client, "resize").status_code == 200
    assert client.delete("/v1/requests/long").json()["status"] == "cancelling"
    caller.join()
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (499, "cancelled")
    assert ask(client, "upscale").status_code == 200


def test_asleep_it_upscales_nothing(client: httpx.Client) -> None:
    """Asleep, upscaling is refused with what to do, other operations go on; awake it is done again."""
    assert client.post("/sleep").json() == {"status": "asleep"}
    assert client.get("/health").json() == {"status": "asleep"}
    answer = ask(client, "upscale")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_asleep")
    assert ask(client, "resize").status_code == 200
    assert client.post("/wake_up").status_code == 200
    assert client.get("/is_sleeping").json() == {"is_sleeping": False}
    assert ask(client, "upscale").status_code == 200
