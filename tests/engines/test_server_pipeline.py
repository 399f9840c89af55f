"""The server around a real, tiny diffusers pipeline, started as the control plane starts it."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from tests.engines import tiny
from tests.engines.pictures_sent import data_url, flat, png, received
from tests.engines.server_process import REAL, ServerProcess, server

GENERATIONS = "/v1/images/generations"
WHITE = (255, 255, 255)
LONG = 900  # as good as endless: a cancelled request never gets there


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server on a port; it must end with 0 and without a traceback."""
    folder = tmp_path_factory.mktemp("model")
    tiny.sd().save_pretrained(folder)
    with server(REAL, folder, "--port", "0", model_path=folder, threads=1, max_steps=LONG) as running:
        yield running.wait_until_ready()
        running.terminate()
        assert running.wait() == 0
        assert not [line for line in running.log if "Traceback" in line], "\n".join(running.log)


@pytest.fixture(scope="module")
def client(process: ServerProcess) -> Iterator[httpx.Client]:
    with process.client() as http:
        yield http


def test_the_pipeline_is_told(client: httpx.Client) -> None:
    """Its facts are those that requests are checked against."""
    facts = client.get("/v1/pipeline").json()
    assert facts["pipeline"] == "StableDiffusionPipeline"
    assert "euler" in facts["schedulers"]
    error = client.post(GENERATIONS, json={"prompt": "x", "scheduler": "eulr"}).json()["error"]
    assert "Did you mean euler?" in error["message"]
    size = f"{facts['multiple_of'] * 9 + 1}x{facts['multiple_of'] * 8}"
    assert client.post(GENERATIONS, json={"prompt": "x", "size": size}).json()["error"]["param"] == "size"


def test_requests_of_several_callers_share_steps(client: httpx.Client, process: ServerProcess) -> None:
    """Four callers at once are drawn together, and each gets the picture of its seed."""
    alone = [_drawn(client, seed).json()["data"] for seed in range(4)]
    answers: dict[int, httpx.Response] = {}

    together = threading.Barrier(4)

    def call(seed: int) -> None:
        with process.client() as own:
            assert own.get("/health").status_code == 200
            together.wait(60)
            answers[seed] = _drawn(own, seed)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    pictures = [received(answers[seed].json()) for seed in range(4)]
    for picture, datum in zip(pictures, alone, strict=True):
        assert _most_different(picture, received({"data": datum})) <= 2
    assert max(answers[seed].json()["timings"]["mean_batch"] for seed in range(4)) > 1


def _drawn(client: httpx.Client, seed: int) -> httpx.Response:
    return client.post(GENERATIONS, json={"prompt": "a red circle", "seed": seed, "steps": 40, "size": "64x64"})


def _most_different(one: Image.Image, other: Image.Image) -> int:
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


def test_the_openai_client_streams(process: ServerProcess) -> None:
    """Partial images, then the whole one, with a scheduler by name."""
    with (
        openai.OpenAI(base_url=f"{process.address}/v1", api_key="none", max_retries=0) as sdk,
        sdk.images.generate(
            model="tiny", prompt="a cat", size="64x64", stream=True, partial_images=2,
            extra_body={"steps": 6, "scheduler": "dpmpp_2m", "negative_prompt": "a dog"},
        ) as stream,
    ):  # fmt: skip
        kinds = [event.type for event in stream]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]


def test_edits(client: httpx.Client) -> None:
    """An image with and without a mask is drawn in its size."""
    body = {"prompt": "a cat", "image": data_url(png(flat(size=(64, 48)))), "steps": 4}
    mask = data_url(png(flat(255, (64, 48), "L")))
    for more in ({"strength": 0.5}, {"mask": mask}, {"mask": mask, "strength": 0.6}):
        answer = client.post("/v1/images/edits", json=body | more)
        assert received(answer.json()).size == (64, 48), answer.text[:300]


SIDES = st.sampled_from([8, 16, 24, 64, 72])
DRAWINGS = st.fixed_dictionaries(
    {"prompt": st.text(min_size=1, max_size=200).filter(str.strip), "size": st.builds("{}x{}".format, SIDES, SIDES)},
    optional={
        "scheduler": st.integers(0, 30),
        "steps": st.integers(1, 5),
        "guidance": st.sampled_from([0, 0.5, 1, 1.0001, 7, 100]),
        "negative_prompt": st.text(max_size=20),
        "seed": st.sampled_from([0, 2**32, 2**63 - 1]),
        "partial_images": st.integers(0, 3),
        "image": st.sampled_from([data_url(png(flat(WHITE, size))) for size in ((64, 64), (3, 50))]),
        "strength": st.sampled_from([0.01, 0.5, 0.999, 1]),
    },
)


@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
@given(DRAWINGS, st.booleans())
def test_whatever_passes_the_checks_is_drawn(client: httpx.Client, body: dict[str, Any], masked: bool) -> None:
    """Any scheduler, few steps, edges of guidance, seed, size and strength: a picture, or a 400 about a field."""
    names = client.get("/v1/pipeline").json()["schedulers"]
    body["steps"] = body.get("steps", 2)
    body["stream"] = "partial_images" in body
    if "scheduler" in body:
        body["scheduler"] = names[body["scheduler"] % len(names)]
    if masked and "image" in body:
        body["mask"] = body["image"]
    answer = client.post("/v1/images/edits" if "image" in body else GENERATIONS, json=body)
    if answer.status_code != 200:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "strength"), answer.text
        return
    assert "event: error" not in answer.text, answer.text[-500:]
    if not body["stream"]:
        assert answer.json()["size"] == body["size"]


def test_hanging_up_frees_the_pipeline(client: httpx.Client, process: ServerProcess) -> None:
    """A caller who goes away ends its request at the next step: nothing runs any more."""
    body = {"prompt": "a cat", "steps": LONG, "stream": True, "partial_images": 3}
    with process.client() as own, pytest.raises(httpx.ReadTimeout):
        own.post(GENERATIONS, json=body | {"stream": False, "partial_images": 0}, timeout=0.2)
    with process.client() as own, own.stream("POST", GENERATIONS, json=body):
        pass
    while "\ndiffusers_requests_running 0.0\n" not in client.get("/metrics").text:
        assert _drawn(client, 1).status_code == 200
    assert client.get("/v1/pipeline").status_code == 200


def test_sleep_and_wake(client: httpx.Client) -> None:
    """The weights go and come back, and the picture is the same."""
    before = _drawn(client, 3).json()["data"]
    assert client.post("/sleep").json() == {"status": "asleep"}
    assert client.get("/health").json() == {"status": "asleep"}
    assert "\ndiffusers_asleep 1.0\n" in client.get("/metrics").text
    assert client.post("/wake_up").json() == {"status": "ready"}
    assert _drawn(client, 3).json()["data"] == before
