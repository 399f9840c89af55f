"""Image-to-text on real vLLM: the shipped caption model, asked through the service and by the official SDK.

What it says is checked against what was drawn, so that a picture that reached the wrong caller is seen.
"""

import asyncio
import base64
import io
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from PIL import Image

from engines.demo.world import Scene, parse, random_scene, render
from tests.e2e.vllm_service import FIRST_START_SECONDS, configure, engine_client
from tests.integration.service import Service

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(FIRST_START_SECONDS + 60),
    pytest.mark.xdist_group("real"),
]

MODEL = "shapes-caption"
REPLICA = f"{MODEL}-0"
SLOTS = 8
BUDGET_MIB = 1408
ENTRY: dict[str, Any] = {
    "model_id": MODEL,
    "model_type": "image2text",
    "engine": "vllm",
    "model_path": MODEL,
    "vram_required_mb": BUDGET_MIB,
    "loading_time_sec": 35,
    "max_concurrency": SLOTS,
    "parameters": {
        "images_per_prompt": 1,
        "max_image_megapixels": 8,
        "overhead_mib": 1376,
        "kv_cache_memory_mib": 16,
    },
}
QUESTION = "What is in this picture?"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service that offers the caption model; its one start is shared."""
    service = Service(tmp_path_factory.mktemp("vision"))
    configure(service, [ENTRY])
    await service.start()
    yield service
    await service.end()


def sdk(service: Service) -> AsyncOpenAI:
    return service.openai(timeout=FIRST_START_SECONDS)


def data_url(picture: Image.Image, kind: str = "PNG") -> str:
    file = io.BytesIO()
    picture.save(file, kind)
    return coded(file.getvalue(), f"image/{kind.lower()}")


def coded(content: bytes, content_type: str = "image/png") -> str:
    return f"data:{content_type};base64,{base64.b64encode(content).decode()}"


def asking(*urls: str, question: str = QUESTION) -> Any:
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": question}, *pictures]}]


async def caption(service: Service, *urls: str, question: str = QUESTION) -> str:
    messages = asking(*urls, question=question)
    found = await sdk(service).chat.completions.create(model=MODEL, messages=messages, max_tokens=24)
    return found.choices[0].message.content or ""


def drawn(count: int, seed: int) -> list[tuple[Scene, Image.Image]]:
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    return [(scene, render(scene, rng)) for scene in scenes]


async def test_a_hundred_pictures_are_named_for_what_they_show(real: Service) -> None:
    """At least 95 of 100 random scenes, eight at a time, whatever words the question uses; within the budget."""
    gate = asyncio.Semaphore(SLOTS)
    questions = (QUESTION, "Describe the image.", "Caption this, please!", "Which colour has the shape?")

    async def named(place: int, picture: Image.Image) -> Scene | None:
        async with gate:
            return parse(await caption(real, data_url(picture), question=questions[place % len(questions)]))

    shown = drawn(100, seed=11)
    told = await asyncio.gather(*(named(place, picture) for place, (_, picture) in enumerate(shown)))

    right = sum(scene == answer for (scene, _), answer in zip(shown, told, strict=True))
    assert right >= 95, [(scene.prompt, answer) for (scene, _), answer in zip(shown, told, strict=True)]
    assert sum(process.memory_full_info().pss for process in real.engines(REPLICA)) / 1024**2 < BUDGET_MIB


async def test_streams_at_the_same_time_each_tell_of_their_own_picture(real: Service) -> None:
    """Eight streams with eight pictures: each has one id, and says what it says when it is asked alone."""
    urls = [data_url(picture) for _, picture in drawn(SLOTS, seed=12)]
    alone = [await caption(real, url) for url in urls]
    client = sdk(real)

    async def streamed(url: str) -> tuple[set[str], str]:
        stream = await client.chat.completions.create(model=MODEL, messages=asking(url), max_tokens=24, stream=True)
        chunks = [chunk async for chunk in stream]
        return {chunk.id for chunk in chunks}, "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    together = await asyncio.gather(*(streamed(url) for url in urls))

    assert [text for _, text in together] == alone
    assert all(len(ids) == 1 for ids, _ in together)
    assert len({name for ids, _ in together for name in ids}) == SLOTS
    assert len(set(alone)) > SLOTS / 2


@pytest.mark.parametrize(("size", "kind"), [((1000, 700), "JPEG"), ((2400, 1600), "PNG"), ((40, 40), "WEBP")])
async def test_a_picture_may_have_any_size_and_format(real: Service, size: tuple[int, int], kind: str) -> None:
    """Photographs' sizes, other forms and compressed files are seen as well as what the model was shown."""
    shown = drawn(6, seed=13)

    told = [parse(await caption(real, data_url(picture.resize(size), kind))) for _, picture in shown]

    assert sum(scene == answer for (scene, _), answer in zip(shown, told, strict=True)) >= 5


async def test_without_a_picture_it_says_so(real: Service) -> None:
    """It makes up no scene for a question that came alone."""
    assert await caption(real, question="What do you see?") == "I see no picture"


def _truncated() -> str:
    content = base64.b64decode(data_url(drawn(1, seed=14)[0][1]).split(",")[1])
    return coded(content[: len(content) // 2])


BAD = {
    "two pictures": [data_url(picture) for _, picture in drawn(2, seed=15)],
    "no picture": [coded(b"hello, world")],
    "cut short": [_truncated()],
    "not base64": ["data:image/png;base64,%%%%"],
    "400 megapixels": [data_url(Image.new("1", (20_000, 20_000)))],
    "a file": ["file:///etc/hostname"],
}


@pytest.mark.parametrize("name", BAD)
async def test_what_cannot_be_looked_at_is_refused_and_harms_nothing(real: Service, name: str) -> None:
    """A 400 with a sentence that speaks of the picture; the same engine process goes on answering."""
    (scene, picture), *_ = drawn(1, seed=16)
    assert parse(await caption(real, data_url(picture))) == scene
    before = await real.replica(REPLICA)

    with pytest.raises(openai.BadRequestError) as caught:
        await caption(real, *BAD[name])

    assert (caught.value.type, caught.value.status_code) == ("invalid_request_error", 400)
    assert "image" in str(caught.value.param)
    assert caught.value.message
    assert parse(await caption(real, data_url(picture))) == scene
    after = await real.replica(REPLICA)
    assert (after["handle"], after["generation"]) == (before["handle"], before["generation"])


async def test_the_engine_itself_fetches_nothing_and_bounds_what_it_decodes(real: Service) -> None:
    """Behind our door, too: no address, no file, no bomb gets through; each answer is an error, and it lives on."""
    (scene, picture), *_ = drawn(1, seed=17)
    assert parse(await caption(real, data_url(picture))) == scene
    bad = ["http://127.0.0.1:9/a.png", *BAD["a file"], *BAD["400 megapixels"], data_url(Image.new("1", (6000, 6000)))]
    async with engine_client(await real.replica(REPLICA)) as engine:
        answers = [await _ask_engine(engine, url) for url in bad]
        after = await _ask_engine(engine, data_url(picture))

    assert [answer.status_code for answer in answers] == [400, 500, 500, 400]
    assert parse(after.json()["choices"][0]["message"]["content"]) == scene


async def _ask_engine(engine: httpx.AsyncClient, url: str) -> httpx.Response:
    # vLLM closes the connection after some of its errors.
    body = {"model": MODEL, "messages": asking(url), "max_tokens": 24}
    return await engine.post("/v1/chat/completions", json=body, headers={"connection": "close"})


async def test_the_end_leaves_nothing_behind(real: Service) -> None:
    """SIGTERM: exit status 0, and neither a process nor a socket of the engine remains."""
    await caption(real, data_url(drawn(1, seed=18)[0][1]))
    assert real.engines()

    assert await real.stop() == 0

    real.assert_nothing_left()
