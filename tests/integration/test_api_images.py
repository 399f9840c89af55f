"""The image paths through the official SDK: every picture is its own caller's, whole and streamed; failures too."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from PIL import Image
from service import Serve, Service, model
from uploads import data_url, png, web_server

from engines.simulated.pictures import Mark, digest, read_mark

pytestmark = pytest.mark.asyncio(loop_scope="module")

GENERATIONS = "/v1/images/generations"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service for the module: `draw` has one slot and takes its time, `failing` breaks off."""
    service = Service(tmp_path_factory.mktemp("images"))
    service.write(
        model("quick", model_type="text2image", aliases=["org/quick"], priority=60),
        model("draw", model_type="text2image", slots=1, script={"steps_per_second": 20}),
        model("failing", model_type="text2image", priority=1, script={"faults": [{"kind": "error", "token": 2}]}),
        server={"max_body_mib": 4},
        media={"allow_private_addresses": True},
    )
    await service.start()
    yield service
    await service.end()


def marked(b64: str | None) -> Mark:
    """Whose picture it is."""
    mark = read_mark(base64.b64decode(b64 or ""))
    assert mark is not None
    return mark


@pytest.mark.parametrize("name", ["quick", "org/quick", "text2image"])
async def test_pictures_are_drawn_for_their_prompt_and_seed(service: Service, name: str) -> None:
    """By id, alias and type: n pictures with seeds counting up, of the size asked for, and usage."""
    raw = await service.openai().images.with_raw_response.generate(
        model=name, prompt="a red circle", n=2, size="1024x1024", extra_body={"seed": 7, "steps": 3}
    )
    answer = raw.parse()

    assert answer.data is not None
    owner = digest(raw.headers["x-request-id"])
    marks = [marked(each.b64_json) for each in answer.data]
    assert marks == [Mark(digest("a red circle"), seed, owner) for seed in (7, 8)]
    with Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or ""))) as picture:
        assert picture.size == (1024, 1024)
    assert answer.usage is not None
    assert answer.usage.output_tokens == 6


async def test_a_call_that_names_no_model_goes_to_the_best(service: Service) -> None:
    """OpenAI lets the model out: the best one that draws is taken, and the body is written anew with its id."""
    raw = await service.openai().images.with_raw_response.generate(prompt="anything")

    assert (await service.request(raw.headers["x-request-id"]))["model_id"] == "quick"


async def test_partial_pictures_come_before_the_last(service: Service) -> None:
    """A stream gives as many partial pictures as were asked for, then the finished one with usage."""
    stream = await service.openai().images.generate(
        model="draw", prompt="a slow one", stream=True, partial_images=2, extra_body={"steps": 6, "seed": 1}
    )
    events = [event async for event in stream]

    kinds = [event.type for event in events]
    assert kinds == [*["image_generation.partial_image"] * 2, "image_generation.completed"]
    owner = digest(stream.response.headers["x-request-id"])
    assert {marked(event.b64_json) for event in events} == {Mark(digest("a slow one"), 1, owner)}
    assert len({event.b64_json for event in events}) == 3
    assert events[-1].usage.output_tokens == 6  # type: ignore[union-attr]


async def test_many_callers_each_get_their_own(service: Service) -> None:
    """Forty calls at once, whole and streamed: no picture reaches another's caller."""
    client = service.openai()

    async def one(number: int) -> None:
        prompt = f"picture {number}"
        options: Any = {"model": "quick", "prompt": prompt, "extra_body": {"seed": number}}
        if number % 2:
            raw = await client.images.with_raw_response.generate(**options)
            data = raw.parse().data
            assert data is not None
            found, owner = data[0].b64_json, raw.headers["x-request-id"]
        else:
            stream = await client.images.generate(**options, stream=True)
            found, owner = [event async for event in stream][-1].b64_json, stream.response.headers["x-request-id"]
        assert marked(found) == Mark(digest(prompt), number, digest(owner))

    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(one(number))


@pytest.mark.parametrize("name", ["quick", "text2image"])
async def test_an_edit_carries_its_upload_to_the_engine(service: Service, name: str) -> None:
    """Multipart as the SDK sends it, by id and by type: the engine saw the very bytes that were uploaded."""
    upload = png()
    raw = await service.openai().images.with_raw_response.edit(
        model=name, image=("in.png", upload), mask=png(), prompt="make it blue", extra_body={"seed": 3}
    )

    data = raw.parse().data
    assert data is not None
    owner = digest(raw.headers["x-request-id"])
    assert marked(data[0].b64_json) == Mark(digest("make it blue"), 3, owner, digest(upload))


async def test_an_edit_without_a_model_and_with_several_pictures(service: Service) -> None:
    """`image[]` and no model: the field is added, the files stay as they are."""
    first, second = png(colour="green"), png(colour="blue")
    raw = await service.openai().images.with_raw_response.edit(
        image=[("a.png", first), ("b.png", second)], prompt="both", extra_body={"seed": 4}
    )

    data = raw.parse().data
    assert data is not None
    assert marked(data[0].b64_json).source == digest(first)


async def test_an_edit_is_streamed(service: Service) -> None:
    """The form's own `stream` and `partial_images` are heeded; events are named for edits."""
    stream = await service.openai().images.edit(
        model="quick", image=("in.png", png()), prompt="again", stream=True, partial_images=1
    )

    kinds = [event.type async for event in stream]
    assert kinds == ["image_edit.partial_image", "image_edit.completed"]


async def test_an_edit_in_json(service: Service) -> None:
    """A data URL in JSON does as well as a file."""
    upload = png()
    body = {"model": "quick", "prompt": "json", "image": data_url(upload), "seed": 1}
    answer = await service.http.post("/v1/images/edits", json=body)

    assert answer.status_code == 200, answer.text
    assert marked(answer.json()["data"][0]["b64_json"]).source == digest(upload)


async def test_a_waiting_stream_is_told_why(service: Service) -> None:
    """While another has the only slot, comments come before the first event, and the priority of the form counts."""
    client = service.openai()
    first = await client.images.generate(
        model="draw", prompt="long", stream=True, partial_images=3, extra_body={"steps": 100}
    )
    await anext(aiter(first))
    body = {"model": "draw", "prompt": "next", "stream": True, "steps": 1}
    async with service.http.stream("POST", GENERATIONS, json=body) as waiting:
        lines = waiting.aiter_lines()
        comment = await anext(lines)
        await first.close()
        rest = [line async for line in lines]

    assert comment.startswith(f": {waiting.headers['x-request-id']} waits, position 1")
    assert "event: image_generation.completed" in rest


async def test_a_caller_that_leaves_frees_the_slot(service: Service) -> None:
    """Closing a stream ends the drawing: the next call on the only slot is answered, the first reads cancelled."""
    client = service.openai()
    stream = await client.images.generate(
        model="draw", prompt="gone", stream=True, partial_images=3, extra_body={"steps": 200}
    )
    await anext(aiter(stream))
    await stream.close()

    await client.images.generate(model="draw", prompt="next", extra_body={"steps": 1})

    row = await service.request(stream.response.headers["x-request-id"])
    assert (row["outcome"], row["status"]) == ("cancelled", "cancelled")


async def test_urls_are_artifacts(service: Service) -> None:
    """response_format "url": each picture can be had at its address, for JSON and for a form, by id and by type."""
    client = service.openai()
    raw = await client.images.with_raw_response.generate(
        model="text2image", prompt="by url", n=2, response_format="url", extra_body={"seed": 5}
    )
    edit = await client.images.edit(model="quick", image=png(), prompt="by url", response_format="url")

    data = [*(raw.parse().data or []), *(edit.data or [])]
    assert len(data) == 3
    assert all(each.b64_json is None and (each.url or "").startswith(service.base_url) for each in data)
    fetched = [await service.http.get(each.url or "") for each in data]
    owner = digest(raw.headers["x-request-id"])
    assert [read_mark(answer.content) for answer in fetched[:2]] == [Mark(digest("by url"), n, owner) for n in (5, 6)]
    assert {answer.headers["content-type"] for answer in fetched} == {"image/png"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The address of a web server on this machine that has one picture."""
    with web_server(tmp_path, red=png()) as address:
        yield address


@pytest.mark.parametrize("shape", ["text", "list", "object"])
async def test_an_address_in_an_edit_is_fetched(service: Service, site: str, shape: str) -> None:
    """The engine is given the bytes, in whatever form the address came."""
    url = f"{site}/red.png"
    image: Any = {"text": url, "list": [url], "object": url}[shape]
    answer = await service.http.post("/v1/images/edits", json={"model": "quick", "prompt": "x", "image": image})

    assert answer.status_code == 200, answer.text
    assert marked(answer.json()["data"][0]["b64_json"]).source == digest(png())


async def test_a_failure_within_a_stream_is_an_api_error(service: Service) -> None:
    """The head is sent by then: the SDK raises APIError from the event, after the partial pictures that were good."""
    stream = await service.openai().images.generate(
        model="failing", prompt="x", stream=True, partial_images=3, extra_body={"steps": 4}
    )
    seen: list[str] = []

    async def listen() -> None:
        async for event in stream:
            seen.append(event.type)

    with pytest.raises(openai.APIError, match="failed while it worked"):
        await listen()

    assert seen == ["image_generation.partial_image"] * 2
    row = await service.request(stream.response.headers["x-request-id"])
    assert (row["outcome"], row["error_code"]) == ("failed", "engine_aborted")


async def test_a_failure_of_a_whole_answer_is_a_500(service: Service) -> None:
    """With the engine's sentence, and no retry by the SDK's own doing."""
    with pytest.raises(openai.InternalServerError, match="failed while it worked") as failure:
        await service.openai(max_retries=2).images.generate(model="failing", prompt="x")

    assert failure.value.response.headers["x-should-retry"] == "false"


async def test_an_engine_that_dies_is_replaced_and_the_call_goes_on(serve: Serve) -> None:
    """SIGKILL while it draws: a whole answer comes from the next engine, with the same request's id in its pixels."""
    service = await serve(model("draw", model_type="text2image", slots=1, script={"steps_per_second": 20}))
    client = service.openai()
    await client.images.generate(prompt="warm", extra_body={"steps": 1})
    call = asyncio.create_task(
        client.images.with_raw_response.generate(prompt="kept", extra_body={"steps": 20, "seed": 1})
    )
    await service.busy("draw", running=1)
    for process in service.engines("draw-0"):
        process.kill()

    raw = await call

    data = raw.parse().data or []
    assert marked(data[0].b64_json) == Mark(digest("kept"), 1, digest(raw.headers["x-request-id"]))
