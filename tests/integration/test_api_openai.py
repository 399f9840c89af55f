"""The OpenAI paths through the official SDK, and byte for byte beside the engine's own answer."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from chats import ask, begin, later, streamed
from service import Service, model

from engines.simulated.text import expected_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
TALK: Any = [{"role": "user", "content": "hello there"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service for the module; `narrow` has one slot and a line of one, `broken` never starts."""
    service = Service(tmp_path_factory.mktemp("openai"))
    service.write(
        model("chat-a", aliases=["quick", "org/chat"], priority=60),
        model("chat-b", priority=40),
        model("embed-a", model_type="embedding"),
        model("narrow", slots=1, priority=10, script={"tokens_per_second": 50}),
        model("broken", priority=10, script={"faults": [{"kind": "exit", "code": 3}]}),
        scheduling={"queue_limit_per_model": 1, "backoff_initial_seconds": 0.2, "backoff_max_seconds": 1},
    )
    await service.start()
    yield service
    await service.end()


async def test_models_are_listed_and_found_by_every_name(service: Service) -> None:
    """List has each id once; retrieve takes an id, an alias (with a slash too) or a type; others are 404."""
    client = service.openai()

    listed = [entry.id async for entry in client.models.list()]

    assert listed == ["chat-a", "chat-b", "embed-a", "narrow", "broken"]
    for name, found in (("chat-b", "chat-b"), ("quick", "chat-a"), ("org/chat", "chat-a"), ("embedding", "embed-a")):
        assert (await client.models.retrieve(name)).id == found
    with pytest.raises(openai.NotFoundError, match="did you mean 'embed-a'"):
        await client.models.retrieve("embed-z")


@pytest.mark.parametrize(
    ("name", "served"), [("chat-a", "chat-a"), ("quick", "quick"), ("text2text", "chat-a"), ("chat-b", "chat-b")]
)
async def test_a_chat_is_answered_whole_and_streamed(service: Service, name: str, served: str) -> None:
    """By id, alias and type, both ways give the same text; a type is served by its most preferred model."""
    client = service.openai()

    whole = await client.chat.completions.create(model=name, messages=TALK, max_tokens=7)

    assert whole.model == served
    assert whole.choices[0].message.content == expected_answer("hello there", 7)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 7
    assert await streamed(client, name, "hello there", 7) == whole.choices[0].message.content


async def test_usage_of_a_stream_is_journalled(service: Service) -> None:
    """stream_options passes through: the last chunk has the usage, and so has the journal."""
    stream = await service.openai().chat.completions.create(
        model="chat-a", messages=TALK, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    row = await service.request(stream.response.headers["x-request-id"])
    assert (row["completion_tokens"], row["stream"], row["outcome"]) == (5, True, "succeeded")


async def test_completions(service: Service) -> None:
    """The older path, whole and streamed."""
    client = service.openai()

    whole = await client.completions.create(model="chat-a", prompt="once upon", max_tokens=4)
    parts = await client.completions.create(model="chat-a", prompt="once upon", max_tokens=4, stream=True)

    text = "".join([chunk.choices[0].text async for chunk in parts])
    assert text == whole.choices[0].text == expected_answer("once upon", 4)


async def test_responses(service: Service) -> None:
    """The responses API, whole and as typed events that end without [DONE]."""
    client = service.openai()

    whole = await client.responses.create(model="chat-a", input="tell me", max_output_tokens=4)
    stream = await client.responses.create(model="chat-a", input="tell me", max_output_tokens=4, stream=True)

    events = [event async for event in stream]
    assert whole.output_text == expected_answer("tell me", 4)
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[-1].type == "response.incomplete"


async def test_embeddings(service: Service) -> None:
    """By id and by type, floats of length one; the same text gives the same vector, another a different one."""
    client = service.openai()

    first = await client.embeddings.create(model="embed-a", input=["cat", "dog"])
    again = await client.embeddings.create(model="embedding", input="cat", encoding_format="float")

    cat, dog = (each.embedding for each in first.data)
    assert math.isclose(sum(x * x for x in cat), 1, rel_tol=1e-3)
    assert all(math.isclose(x, y, abs_tol=1e-5) for x, y in zip(cat, again.data[0].embedding, strict=True))
    assert cat != dog


async def test_tokenize_and_back(service: Service) -> None:
    """vLLM's extras pass through for any type of model."""
    asked = await service.http.post("/tokenize", json={"model": "quick", "prompt": "one two three"})
    tokens = asked.json()["tokens"]
    back = await service.http.post("/detokenize", json={"model": "quick", "tokens": tokens})

    assert asked.json()["count"] == len(tokens) > 0
    assert back.json()["prompt"] == "one two three"
    assert asked.headers["x-request-id"] != back.headers["x-request-id"]


def _same(body: bytes, request_id: str) -> list[bytes]:
    """The lines without what differs from call to call: the id, and the second it was made in."""
    lines = body.replace(request_id.encode(), b"ID").splitlines(keepends=True)
    return [b'"created":'.join(part.lstrip(b"0123456789") for part in line.split(b'"created":')) for line in lines]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_answers_pass_byte_for_byte(service: Service, stream: bool) -> None:
    """The same body put to the engine's own socket gives the same bytes, but for id and second."""
    body = {"model": "chat-a", "messages": TALK, "max_tokens": 40, "stream": stream, "unknown_field": {"kept": [1]}}
    ours = await service.http.post(CHAT, json=body)
    endpoint = (await service.replica("chat-a-0"))["endpoint"]
    transport = httpx.AsyncHTTPTransport(uds=endpoint.removeprefix("unix:"))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as direct:
        theirs = await direct.post(CHAT, json=body, headers={"x-request-id": "direct"})

    assert ours.status_code == theirs.status_code == 200
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert _same(ours.content, ours.headers["x-request-id"]) == _same(theirs.content, "direct")


async def test_every_accepted_call_has_an_id_of_its_own(service: Service) -> None:
    """x-request-id is on whole answers, streams and the engine's refusals, and finds the row in the journal."""
    client = service.openai()
    whole = await client.chat.completions.with_raw_response.create(model="chat-a", messages=TALK, max_tokens=1)
    part = await begin(client, "chat-a", "hello", 2)
    await part.rest()
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="chat-a", messages=[])

    ids = [whole.headers["x-request-id"], part.stream.response.headers["x-request-id"], refused.value.request_id]
    assert len(set(ids)) == 3
    rows = {row["request_id"]: row["outcome"] for row in await service.journal()}
    assert [rows[request_id or ""] for request_id in ids] == ["succeeded", "succeeded", "failed"]


@pytest.mark.parametrize(
    ("fields", "headers", "expected"),
    [
        pytest.param({}, {}, 60, id="the model's own"),
        pytest.param({"service_tier": "auto"}, {}, 60, id="tier auto"),
        pytest.param({"service_tier": "flex"}, {}, 20, id="tier flex"),
        pytest.param({"service_tier": "priority"}, {}, 80, id="tier priority"),
        pytest.param({"service_tier": "flex", "extra_body": {"priority": 33}}, {}, 33, id="body over tier"),
        pytest.param({"extra_body": {"priority": 33}}, {"X-Priority": "7"}, 7, id="header over body"),
        pytest.param({}, {"X-Priority": "0"}, 0, id="lowest"),
        pytest.param({}, {"X-Priority": "100"}, 100, id="highest"),
    ],
)
async def test_priority_is_set_and_journalled(
    service: Service, fields: dict[str, Any], headers: dict[str, str], expected: int
) -> None:
    """Header before body before tier before the model's own."""
    raw = await service.openai().chat.completions.with_raw_response.create(
        model="chat-a", messages=TALK, max_tokens=1, extra_headers=headers, **fields
    )

    assert (await service.request(raw.headers["x-request-id"]))["priority"] == expected


async def _rejected(service: Service, code: str) -> float:
    start = f'inference_manager_rejected_total{{code="{code}"}} '
    lines = (await service.http.get("/metrics")).text.splitlines()
    return next((float(line.removeprefix(start)) for line in lines if line.startswith(start)), 0.0)


async def test_the_sdk_comes_back_when_the_line_is_full(service: Service) -> None:
    """429 with retry-after: two retries are three attempts at the server, and RateLimitError when all were refused."""
    client = service.openai()
    running = await begin(client, "narrow", "long", 5000)
    queued = later(ask(client, "narrow", "next", 2))
    await service.busy("narrow", running=1, waiting=1)
    before = await _rejected(service, "queue_full")

    with pytest.raises(openai.RateLimitError) as refused:
        await ask(service.openai(max_retries=2), "narrow", "too much")

    assert await _rejected(service, "queue_full") == before + 3
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert refused.value.code == "queue_full"
    await running.leave()
    assert "next" in await queued


async def test_the_sdk_succeeds_once_the_line_has_moved(service: Service) -> None:
    """A caller who was refused with 429 and comes back is answered, without a line of code of his own."""
    client = service.openai()
    running = await begin(client, "narrow", "long", 5000)
    queued = later(ask(client, "narrow", "next", 2))
    await service.busy("narrow", running=1, waiting=1)
    before = await _rejected(service, "queue_full")
    patient = later(ask(service.openai(max_retries=5), "narrow", "patient", 2))
    async with asyncio.timeout(60):
        while await _rejected(service, "queue_full") == before:
            await service.busy("narrow", waiting=1)

    await running.leave()

    assert "next" in await queued
    assert "patient" in await patient


async def test_a_model_that_fails_is_a_503_with_retry_after(service: Service) -> None:
    """InternalServerError that names the reason and says when to come back."""
    with pytest.raises(openai.InternalServerError, match="code 3") as refused:
        await ask(service.openai(), "broken", "hello")

    assert (refused.value.status_code, refused.value.code) == (503, "model_failed")
    assert int(refused.value.response.headers["retry-after"]) >= 1
