"""Pictures on the real diffusers engine, asked for through the service: drawn, edited, processed, cancelled, swapped.

The pipeline is tiny and its weights are random: what it draws means nothing, but seeds tell whose picture it is.
"""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import pytest_asyncio
from PIL import Image

from tests.e2e.vllm_service import FIRST_START_SECONDS, configure
from tests.integration.service import Service, until

pytest_plugins = ("tests.real",)
pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(FIRST_START_SECONDS + 60),
    pytest.mark.xdist_group("real"),
]

DRAW, PROCESS = "draw", "process"
DRAW_REPLICA, PROCESS_REPLICA = f"{DRAW}-0", f"{PROCESS}-0"
BUDGET_MIB = 768
SCHEDULER = {"devices": {"source": "host", "budgets_mib": {"host": BUDGET_MIB}}}


def models(pipeline: Path) -> list[dict[str, Any]]:
    """Two that do not fit together: one draws, one only processes."""
    draw = {"model_id": DRAW, "aliases": ["pictures"], "model_type": "text2image", "model_path": str(pipeline)}
    process = {"model_id": PROCESS, "model_type": "image_processing"}
    sizes = {DRAW: 704, PROCESS: 128}
    return [
        {**each, "engine": "diffusers", "vram_required_mb": sizes[each["model_id"]], "max_batch_size": 4}
        for each in (draw, process)
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service that offers both; their starts are shared."""
    service = Service(tmp_path_factory.mktemp("diffusers"))
    configure(service, models(tiny_pipeline), **SCHEDULER)
    await service.start()
    yield service
    await service.end()


def sdk(service: Service) -> openai.AsyncOpenAI:
    return service.openai(timeout=FIRST_START_SECONDS)


async def drawn(service: Service, seed: int = 1, **fields: Any) -> bytes:
    """One picture by the official SDK."""
    extra = {"seed": seed, "steps": 3, **fields}
    answer = await sdk(service).images.generate(
        model=DRAW, prompt="a red circle", extra_body={"size": "64x64", **extra}
    )
    assert answer.data is not None
    return base64.b64decode(answer.data[0].b64_json or "")


def size_of(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        return picture.size


async def test_the_first_call_starts_the_engine_and_is_drawn(real: Service) -> None:
    """`inferctl serve` starts the engine in its own environment and answers with the picture that was asked for."""
    assert size_of(await drawn(real)) == (64, 64)
    replica = await real.replica(DRAW_REPLICA)
    assert replica["state"] == "ready"
    row = (await real.journal())[0]
    assert (row["model_id"], row["status"]) == (DRAW, "complete")


async def test_callers_at_once_each_get_their_own(real: Service) -> None:
    """Eight seeds at once, in batches that mix them: each picture is the one that its seed draws alone."""
    together = await asyncio.gather(*(drawn(real, seed) for seed in range(8)))
    alone = [await drawn(real, seed) for seed in range(8)]
    assert len({_pixels(picture) for picture in together}) == 8
    for mixed, single in zip(together, alone, strict=True):
        assert _difference(mixed, single) <= 2  # of 255: rows of another batch size round otherwise


async def test_partial_pictures_are_streamed(real: Service) -> None:
    """Events as the SDK knows them, the finished picture last, with its usage."""
    stream = await sdk(real).images.generate(
        model="pictures", prompt="x", stream=True, partial_images=2, extra_body={"size": "64x64", "steps": 6}
    )
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        *["image_generation.partial_image"] * 2,
        "image_generation.completed",
    ]
    assert size_of(base64.b64decode(events[-1].b64_json)) == (64, 64)
    row = (await real.journal())[0]
    assert (row["status"], row["completion_tokens"]) == ("complete", 16)


async def test_an_upload_is_edited(real: Service) -> None:
    """Multipart through service and engine: picture, mask and fields arrive."""
    original = await drawn(real)
    answer = await sdk(real).images.edit(
        model=DRAW,
        image=("in.png", original),
        mask=("mask.png", original),
        prompt="blue",
        extra_body={"size": "64x64", "steps": 3, "strength": 0.5},
    )
    assert answer.data is not None
    assert size_of(base64.b64decode(answer.data[0].b64_json or "")) == (64, 64)


async def test_wrong_fields_are_named_by_the_engine_that_knows_them(real: Service) -> None:
    """What this pipeline cannot draw is the caller's error, and the engine draws on."""
    with pytest.raises(openai.BadRequestError) as caught:
        await drawn(real, scheduler="no such")
    assert caught.value.param == "scheduler"
    assert size_of(await drawn(real)) == (64, 64)


async def test_a_caller_that_leaves_frees_the_engine(real: Service) -> None:
    """A long drawing ends in the engine when its caller hangs up."""
    call = asyncio.create_task(drawn(real, steps=200, size="128x128"))
    await real.busy(DRAW, running=1)
    call.cancel()
    await real.busy(DRAW, running=0, waiting=0)
    assert size_of(await drawn(real)) == (64, 64)


async def test_a_killed_engine_is_started_again(real: Service) -> None:
    """SIGKILL amid a drawing: nothing was delivered, so that it is drawn by the next process."""
    view = await real.replica(DRAW_REPLICA)
    call = asyncio.create_task(drawn(real, steps=100, size="128x128"))
    await real.busy(DRAW, running=1)
    psutil.Process(real.pid(view)).kill()
    assert size_of(await call) == (128, 128)
    assert real.pid(await real.replica(DRAW_REPLICA)) != real.pid(view)


async def test_a_job_outlives_the_control_plane_and_is_drawn_once(real: Service) -> None:
    """SIGKILL while it is drawn, with its steps being followed: the next life gets what the engine went on with."""
    await drawn(real)
    images = await _images_drawn(real)
    body = {"prompt": "a red circle", "model": DRAW, "wait": False, "parameters": {"size": "128x128", "steps": 200}}
    where = f"/api/v1/requests/{(await real.http.post('/api/v1/text-to-image', json=body)).json()['request_id']}"
    progress = await _steps(real, f"{where}/events")
    assert (progress["unit"], progress["total"]) == ("steps", 200)

    await real.restart()
    await until(lambda: _complete(real, where), FIRST_START_SECONDS)

    result = (await real.http.get(f"{where}/result")).json()
    assert size_of((await real.http.get(result["image_paths"][0])).content) == (128, 128)
    tries = (await real.http.get(where)).json()["tries"]
    assert [each["outcome"] for each in tries] == ["interrupted", "succeeded"]
    assert await _images_drawn(real) == images + 1


async def _steps(real: Service, path: str) -> Any:
    """The first event that tells of steps."""
    async with real.http.stream("GET", path, timeout=FIRST_START_SECONDS) as stream:
        name = ""
        async for line in stream.aiter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "data" and name == "progress":
                return json.loads(value)
    raise AssertionError("the job ended before its steps were told")


async def _complete(real: Service, path: str) -> bool:
    return (await real.http.get(path)).json()["status"] == "complete"


async def _images_drawn(real: Service) -> float:
    """Counted by the engine itself."""
    endpoint = (await real.replica(DRAW_REPLICA))["endpoint"]
    transport = httpx.AsyncHTTPTransport(uds=endpoint.removeprefix("unix:"))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as engine:
        text = (await engine.get("/metrics")).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("diffusers_images_total "))


async def test_processing_swaps_in_without_a_model(real: Service) -> None:
    """The operation goes to the model of that kind, for which the other leaves: both do not fit."""
    original = await drawn(real)
    files = {"file": ("in.png", original, "image/png")}
    form = {"operation": "resize", "parameters": '{"width": 32, "height": 32}'}
    async with httpx.AsyncClient(base_url=real.base_url, timeout=FIRST_START_SECONDS) as client:
        answer = (await client.post("/api/v1/image-processing", files=files, data=form)).json()
        assert answer["status"] == "complete", answer
        artifact = await client.get(answer["image_path"])
    assert size_of(artifact.content) == (32, 32)
    assert (await real.replica(PROCESS_REPLICA))["state"] == "ready"
    assert (await real.replica(DRAW_REPLICA)).get("state") in (None, "stopped")


async def test_the_end_leaves_nothing_behind(real: Service) -> None:
    """An orderly end stops the engines, and removes sockets, records and working folders."""
    await real.stop()
    await until(lambda: not real.engines())
    real.assert_nothing_left()


def _pixels(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as picture:
        return picture.convert("RGB").tobytes()


def _difference(one: bytes, other: bytes) -> int:
    return max(abs(a - b) for a, b in zip(_pixels(one), _pixels(other), strict=True))
