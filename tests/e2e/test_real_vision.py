"""The shipped image models on real engines: drawn, named and upscaled through the service, by the official SDK.

What comes back is checked against what was asked for, so that a picture that reached the wrong caller is seen.
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

from engines.demo.world import Scene, measure, parse, random_scene, render
from tests.e2e.vllm_service import FIRST_START_SECONDS, configure, engine_client, shipped
from tests.integration.service import Service

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(FIRST_START_SECONDS + 60),
    pytest.mark.xdist_group("real"),
]

MODEL = "shapes-caption"
REPLICA = f"{MODEL}-0"
DRAW, PROCESS = "shapes-draw", "pictures"
SLOTS = 8
(ENTRY,) = shipped(MODEL)
BUDGET_MIB = ENTRY["vram_required_mb"]
QUESTION = "What is in this picture?"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service that offers them all within one budget; their starts are shared."""
    service = Service(tmp_path_factory.mktemp("vision"))
    configure(service, shipped(MODEL, DRAW, PROCESS))
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


async def drawing(service: Service, scene: Scene, seed: int) -> Image.Image:
    answer = await sdk(service).images.generate(model=DRAW, prompt=scene.prompt, extra_body={"seed": seed})
    assert answer.data is not None
    return Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or "")))


async def test_a_hundred_prompts_are_drawn_as_asked_and_named_as_drawn(real: Service) -> None:
    """Callers who draw at the same time share batches: at least 95 of 100 get colour, shape and background right, and
    the other model, which never heard the prompts, names at least 90 of them so."""
    gate = asyncio.Semaphore(2 * SLOTS)
    rng = random.Random(2026)
    scenes = [random_scene(rng) for _ in range(100)]

    async def drawn_and_named(seed: int, scene: Scene) -> tuple[bool, bool]:
        async with gate:
            picture = await drawing(real, scene, seed)
            return measure(picture) == scene, parse(await caption(real, data_url(picture))) == scene

    found = await asyncio.gather(*(drawn_and_named(seed, scene) for seed, scene in enumerate(scenes)))

    assert sum(drawn for drawn, _ in found) >= 95
    assert sum(named for _, named in found) >= 90


async def test_an_upscaled_drawing_shows_the_same(real: Service) -> None:
    """A file in, an artifact out, eight times as wide, and the scene is still what was asked for."""
    scene = Scene("yellow", "cross", "purple")
    small = io.BytesIO()
    (await drawing(real, scene, seed=3)).save(small, "PNG")

    async with httpx.AsyncClient(base_url=real.base_url, timeout=FIRST_START_SECONDS) as http:
        answer = await http.post(
            "/api/v1/image-processing",
            files={"file": ("small.png", small.getvalue(), "image/png")},
            data={"operation": "upscale", "parameters": '{"scale": 8}'},
        )
        assert answer.status_code == 200, answer.text
        large = Image.open(io.BytesIO((await http.get(answer.json()["image_path"])).content))

    assert large.size == (512, 512)
    assert measure(large) == scene


async def test_the_end_leaves_nothing_behind(real: Service) -> None:
    """SIGTERM: exit status 0, and neither a process nor a socket of the engine remains."""
    await caption(real, data_url(drawn(1, seed=18)[0][1]))
    assert real.engines()

    assert await real.stop() == 0

    real.assert_nothing_left()
