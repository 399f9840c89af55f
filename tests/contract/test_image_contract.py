"""What every adapter of an image engine promises: tried on the simulated engine, and (`real`) on our diffusers engine.

The diffusers engine runs in its own environment on the CPU, with a tiny pipeline that it batches one row at a time.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from adapters.base import Call, Ending, EngineAdapter, ModelLaunch, Probe, Target
from adapters.diffusers import DiffusersAdapter
from adapters.errors import LaunchError
from adapters.http1 import Pool, Response
from adapters.simulated import SimulatedAdapter
from adapters.tasks import ImageProcessing, Picture, TextToImage
from tests.contract.engine_worlds import World, running

pytest_plugins = ("tests.real",)

TAIL_BYTES = 8192
PATIENCE_SECONDS = 60
NAMES = ("tiny", "tiny-alias")
HOST = Target("host", 0, 16_384)
SIMULATED, DIFFUSERS = "simulated", "diffusers"
REAL = pytest.param(DIFFUSERS, marks=pytest.mark.real)
GENERATIONS, EDITS, PROCESS = "/v1/images/generations", "/v1/images/edits", "/v1/images/process"
FOREVER = 200  # steps of the largest picture that is tried: more than any test waits for

Body = dict[str, Any]


def entry(kind: str, request: pytest.FixtureRequest, **changes: Any) -> ModelLaunch:
    """One row at a time, so that order shows."""
    fields: Body = {"model_id": NAMES[0], "aliases": NAMES[1:], "types": ("text2image", "image_processing")}
    fields |= {"model_path": "", "budget_mib": 256, "max_concurrency": 1, "options": {"steps_per_second": 50}}
    if kind == DIFFUSERS:
        pipeline: Path = request.getfixturevalue("tiny_pipeline")
        fields |= {"model_path": str(pipeline), "budget_mib": 768, "options": {"threads": 1}}
    return ModelLaunch(**(fields | changes))


@contextmanager
def opened(kind: str, model: ModelLaunch, request: pytest.FixtureRequest) -> Iterator[World]:
    """The model in an engine that is not waited for, beside its adapter."""
    adapter: EngineAdapter = SimulatedAdapter() if kind == SIMULATED else DiffusersAdapter()
    python = request.getfixturevalue("diffusers_python") if kind == DIFFUSERS else None
    with running(adapter.launch(model, HOST), python) as engine:
        yield World(adapter, engine, model)


@pytest.fixture(scope="module", params=[SIMULATED, REAL])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with opened(request.param, entry(request.param, request), request) as world:
        world.wait_ready()
        yield world


@asynccontextmanager
async def connected(world: World) -> AsyncIterator[Pool]:
    pool = Pool(world.endpoint)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield pool
    finally:
        pool.close()
        await asyncio.sleep(0)


def drawing(**fields: Any) -> Body:
    return {"model": NAMES[0], "prompt": "a red circle", "size": "64x64", "steps": 3, "seed": 7} | fields


def photo(size: tuple[int, int] = (64, 48)) -> bytes:
    content = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(content, "PNG")
    return content.getvalue()


def as_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def form(fields: Body, **files: bytes) -> tuple[bytes, bytes]:
    """A multipart body, and its content type."""
    parts = [(f'name="{name}"', str(value).encode()) for name, value in fields.items()]
    parts += [(f'name="{name}"; filename="{name}.png"', content) for name, content in files.items()]
    body = b"".join(
        b"--edge\r\ncontent-disposition: form-data; %b\r\n\r\n%b\r\n" % (head.encode(), content)
        for head, content in parts
    )
    return body + b"--edge--\r\n", b"multipart/form-data; boundary=edge"


async def send(world: World, pool: Pool, path: str, body: Body | bytes, **call: Any) -> Response:
    """Send as the service does: the adapter's headers, the body as it is."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields: Body = {"request_id": "req-1", "priority": 50, "stream": isinstance(body, dict) and "stream" in body}
    fields |= {"content_type": b"application/json", **call}
    wanted = Call("POST", path, content, fields.pop("content_type"), **fields)
    return await pool.send(wanted.method, wanted.path, world.adapter.headers(wanted), content)


async def whole(world: World, pool: Pool, path: str, body: Body | bytes, **call: Any) -> tuple[int, bytes]:
    response = await send(world, pool, path, body, **call)
    return response.status, await response.read(1 << 26)


async def until(world: World, running: int, waiting: int) -> Probe:
    """Look until that many pictures are drawn and wait."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            look = await world.adapter.probe(world.endpoint)
            if (look.running, look.waiting) == (running, waiting):
                return look


def pictures(answer: bytes) -> list[Image.Image]:
    return [opened_picture(each["b64_json"]) for each in json.loads(answer)["data"]]


def opened_picture(coded: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(coded)))
    picture.load()
    return picture


async def test_a_ready_engine_is_seen_as_ready_and_idle(world: World) -> None:
    """Ready, with nothing running or waiting, and a count of its progress."""
    look = await until(world, 0, 0)
    assert look.ready
    assert look.progressed is not None


def test_the_log_of_a_start_ends_as_ready(world: World) -> None:
    """The phases in words come from the log that this engine really wrote."""
    assert world.adapter.cold_phase(world.engine.log) == "ready"
    assert world.adapter.cold_phase(world.engine.log[:0]) != "ready"


async def test_a_drawing_is_complete_and_counted(world: World) -> None:
    """The pictures asked for, in the size asked for; the verdict finds the token counts behind them."""
    assert world.adapter.serves(GENERATIONS)
    async with connected(world) as pool:
        status, answer = await whole(world, pool, GENERATIONS, drawing(n=2))
    verdict = world.adapter.verdict(answer[-TAIL_BYTES:], stream=False)
    assert (status, verdict.ending) == (200, Ending.COMPLETE)
    assert verdict.prompt_tokens
    assert verdict.completion_tokens
    assert [picture.size for picture in pictures(answer)] == [(64, 64), (64, 64)]
    assert [each["seed"] for each in json.loads(answer)["data"]] == [7, 8]


async def test_a_stream_is_complete_only_with_its_end(world: World) -> None:
    """Partial pictures, then the finished one; cut anywhere before its end it is aborted."""
    async with connected(world) as pool:
        body = drawing(stream=True, partial_images=2, steps=8)
        status, stream = await whole(world, pool, GENERATIONS, body)
    verdict = world.adapter.verdict(stream[-TAIL_BYTES:], stream=True)
    assert (status, verdict.ending) == (200, Ending.COMPLETE)
    assert verdict.completion_tokens
    assert stream.count(b"event: image_generation.partial_image") == 2
    for end in range(0, len(stream) - 3, max(1, len(stream) // 100)):
        assert world.adapter.verdict(stream[:end][-TAIL_BYTES:], stream=True).ending is Ending.ABORTED


async def test_a_finished_picture_longer_than_the_tail_is_recognised(world: World) -> None:
    """Of a large picture only its end is kept, which tells all the same."""
    async with connected(world) as pool:
        _, stream = await whole(world, pool, GENERATIONS, drawing(stream=True, size="128x128"))
        _, answer = await whole(world, pool, GENERATIONS, drawing(size="128x128"))
    for content, is_stream in ((stream, True), (answer, False)):
        verdict = world.adapter.verdict(content[-512:], stream=is_stream)
        assert verdict.ending is Ending.COMPLETE
        assert verdict.completion_tokens


async def test_an_edit_takes_a_form(world: World) -> None:
    """Uploads pass as they came, boundary and all."""
    body, content_type = form(drawing(strength=0.5), image=photo())
    async with connected(world) as pool:
        status, answer = await whole(world, pool, EDITS, body, content_type=content_type)
    assert (status, world.adapter.verdict(answer[-TAIL_BYTES:], stream=False).ending) == (200, Ending.COMPLETE)
    assert pictures(answer)[0].size == (64, 64)


async def test_every_name_is_served(world: World) -> None:
    """The model's id and its aliases."""
    async with connected(world) as pool:
        for name in NAMES:
            assert (await whole(world, pool, GENERATIONS, drawing(model=name)))[0] == 200


async def test_tasks_become_calls_and_answers_results(world: World) -> None:
    """What the unified API asks for comes back as pictures, by the adapter's own mapping."""
    original = Picture(photo(), "image/png")
    half = {"width": 32, "height": 24}
    for task, size in (
        (TextToImage("a red circle", parameters={"width": 64, "height": 64, "steps": 2}), (64, 64)),
        (ImageProcessing(original, "resize", half), (32, 24)),
    ):
        call = world.adapter.task_call(task, NAMES[1])
        assert world.adapter.serves(call.path)
        async with connected(world) as pool:
            status, answer = await whole(world, pool, call.path, call.body, content_type=call.content_type)
        assert (status, world.adapter.verdict(answer[-TAIL_BYTES:], stream=False).ending) == (200, Ending.COMPLETE)
        (picture,) = world.adapter.task_result(task, answer).pictures
        assert Image.open(io.BytesIO(picture.content)).size == size


async def test_work_shows_as_progress(world: World) -> None:
    """Every drawing raises the count; an idle engine's stays."""
    before = await until(world, 0, 0)
    assert (await until(world, 0, 0)).progressed == before.progressed
    async with connected(world) as pool:
        await whole(world, pool, GENERATIONS, drawing())
    after = await until(world, 0, 0)
    assert before.progressed is not None
    assert after.progressed is not None
    assert after.progressed > before.progressed


async def test_closing_the_connection_cancels(world: World) -> None:
    """A drawing that would go on for long leaves its place as soon as we hang up, drawn or waiting."""
    async with connected(world) as pool, asyncio.TaskGroup() as group:
        first = group.create_task(whole(world, pool, GENERATIONS, drawing(steps=FOREVER, size="256x256")))
        await until(world, 1, 0)
        second = group.create_task(whole(world, pool, GENERATIONS, drawing(steps=FOREVER), request_id="req-2"))
        await until(world, 1, 1)
        second.cancel()
        await until(world, 1, 0)
        first.cancel()
        await until(world, 0, 0)


async def test_the_higher_priority_goes_first(world: World) -> None:
    """Whatever came first, our 90 is drawn before our 50, and that before our 10."""
    order: list[int] = []

    async def ask(pool: Pool, priority: int) -> None:
        call = {"priority": priority, "request_id": f"req-{priority}"}
        status, _ = await whole(world, pool, GENERATIONS, drawing(), **call)
        assert status == 200
        order.append(priority)

    async with connected(world) as pool, asyncio.TaskGroup() as group:
        long = drawing(steps=FOREVER, size="256x256")
        blocker = group.create_task(whole(world, pool, GENERATIONS, long, priority=95, request_id="req-long"))
        await until(world, 1, 0)
        for ahead, priority in enumerate((10, 50, 90), start=1):
            group.create_task(ask(pool, priority))
            await until(world, 1, ahead)
        blocker.cancel()
    assert order == [90, 50, 10]


ERRORS: dict[str, tuple[str, Body | bytes, tuple[int, str, str | None]]] = {
    "unknown model": (GENERATIONS, drawing(model="nope"), (404, "not_found_error", "model")),
    "no steps": (GENERATIONS, drawing(steps=0), (400, "invalid_request_error", "steps")),
    "too many steps": (GENERATIONS, drawing(steps=10_000), (400, "invalid_request_error", "steps")),
    "an odd size": (GENERATIONS, drawing(size="63x64"), (400, "invalid_request_error", "size")),
    "unknown scheduler": (GENERATIONS, drawing(scheduler="nope"), (400, "invalid_request_error", "scheduler")),
    "unknown operation": (
        PROCESS,
        {"model": NAMES[0], "operation": "nope", "image": as_url(photo())},
        (400, "invalid_request_error", "operation"),
    ),
    "no picture": (
        PROCESS,
        {"model": NAMES[0], "operation": "flip", "image": "data:image/png;base64,AAAA"},
        (400, "invalid_request_error", "image"),
    ),
    "broken JSON": (GENERATIONS, b'{"model":', (400, "invalid_request_error", None)),
}


@pytest.mark.parametrize("kind", ERRORS)
async def test_errors_are_openais_and_tell_nothing_of_the_host(world: World, kind: str) -> None:
    """Status, type and field as OpenAI has them, a sentence, and no path or socket of ours in it."""
    path, body, expected = ERRORS[kind]
    async with connected(world) as pool:
        status, answer = await whole(world, pool, path, body)
    error = world.adapter.error(status, answer)
    assert (error.status, error.type, error.param) == expected
    assert error.message
    assert not error.retryable
    assert not [word for word in world.secrets() if word in error.message]


async def test_an_engine_stays_within_its_budget(world: World) -> None:
    """After several pictures at once too, the process holds no more than the launch was given."""
    async with connected(world) as pool:
        status, _ = await whole(world, pool, GENERATIONS, drawing(n=4, size="128x128"))
    assert status == 200
    assert world.engine.memory_mib() <= world.model.budget_mib


# The tests below need an engine of their own.


@pytest.mark.real
def test_a_start_that_fails_names_its_cause(request: pytest.FixtureRequest) -> None:
    """Out of a whole log, the one sentence that helps."""
    loras = json.dumps([{"path": "/nowhere/red.safetensors"}])
    with opened(DIFFUSERS, entry(DIFFUSERS, request, options={"loras": loras}), request) as world:
        assert world.engine.wait_ended() != 0
    assert "/nowhere/red.safetensors" in world.adapter.failure(world.engine.log)


@pytest.mark.real
def test_the_least_budget_is_enough_to_draw(request: pytest.FixtureRequest) -> None:
    """What a refusal names as enough is enough: the pipeline loads under that cap, and draws its usual size."""
    with pytest.raises(LaunchError, match=r"(\d+) MiB would do") as refused:
        DiffusersAdapter().launch(entry(DIFFUSERS, request, budget_mib=1), HOST)
    least = re.search(r"(\d+) MiB would do", str(refused.value))
    assert least is not None
    with opened(DIFFUSERS, entry(DIFFUSERS, request, budget_mib=int(least[1])), request) as world:
        world.wait_ready()
        status = asyncio.run(draw_once(world))
        assert status == 200
        assert world.engine.memory_mib() <= world.model.budget_mib


async def draw_once(world: World) -> int:
    async with connected(world) as pool:
        return (await whole(world, pool, GENERATIONS, drawing()))[0]


@pytest.mark.real
def test_operations_need_no_model_and_little_memory(request: pytest.FixtureRequest) -> None:
    """Without a pipeline the engine starts within the least budget, processes pictures, and refuses to draw."""
    model = entry(DIFFUSERS, request, types=("image_processing",), model_path="", budget_mib=128, options={})

    async def scenario(world: World) -> None:
        call = {"model": NAMES[0], "operation": "rotate", "parameters": {"angle": 90}, "image": as_url(photo())}
        async with connected(world) as pool:
            status, answer = await whole(world, pool, PROCESS, call)
            assert (status, pictures(answer)[0].size) == (200, (48, 64))
            status, answer = await whole(world, pool, GENERATIONS, drawing())
        assert world.adapter.error(status, answer).status in (400, 404)
        assert world.engine.memory_mib() <= world.model.budget_mib

    with opened(DIFFUSERS, model, request) as world:
        world.wait_ready()
        asyncio.run(scenario(world))
