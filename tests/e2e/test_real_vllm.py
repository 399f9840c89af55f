"""The promises of the service on real vLLM, under a budget that holds one of its two models.

Every test gets a model that serves by asking for it; the order only saves starts.
"""

import asyncio
import itertools
import json
import math
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.e2e.vllm_service import (
    BUDGET_MIB,
    CHAT,
    CHAT_REPLICA,
    EMBED,
    EMBED_REPLICA,
    FIRST_START_SECONDS,
    SLOTS,
    MemoryWatch,
    configure,
    engine_client,
    engine_running,
    shipped_models,
)
from tests.integration.service import Service, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(FIRST_START_SECONDS + 60),
    pytest.mark.xdist_group("real"),
]

ASK: Any = [{"role": "user", "content": "What is the capital of France?"}]
# Far longer than any test: such a stream only ends when something ends it.
ENDLESS: Any = {"max_tokens": 1800, "extra_body": {"ignore_eos": True}}
AT_ONCE_SECONDS = 5.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service that offers both shipped models and has started neither; shared, for a start takes half a minute."""
    service = Service(tmp_path_factory.mktemp("real"))
    configure(service, shipped_models())
    await service.start()
    yield service
    await service.end()


def sdk(service: Service) -> AsyncOpenAI:
    return service.openai(timeout=FIRST_START_SECONDS)


async def answer(client: AsyncOpenAI, model: str = CHAT, **options: Any) -> str:
    """A whole short chat answer."""
    options = {"max_tokens": 16, "temperature": 0, **options}
    found = await client.chat.completions.create(model=model, messages=ASK, **options)
    return found.choices[0].message.content or ""


async def endless(client: AsyncOpenAI) -> Any:
    """A stream that has begun to speak and would go on for minutes."""
    stream = await client.chat.completions.create(model=CHAT, messages=ASK, stream=True, **ENDLESS)
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            return stream
    raise AssertionError("the stream ended before its first token")


async def to_its_end(stream: Any) -> None:
    async for _ in stream:
        pass


def request_id(stream: Any) -> str:
    return str(stream.response.headers["x-request-id"])


async def lines_of(client: httpx.AsyncClient, body: dict[str, Any]) -> list[str]:
    """A streamed chat, line by line, as it stands on the wire."""
    async with client.stream("POST", "/v1/chat/completions", json=body, timeout=FIRST_START_SECONDS) as response:
        assert response.status_code == 200, await response.aread()
        return [line async for line in response.aiter_lines()]


def forms(lines: list[str]) -> list[str]:
    """The distinct lines in order, less ids, times and texts; how many tokens share an event is a matter of timing."""
    return list(dict.fromkeys(re.sub(r'"id":"[^"]*"|"created":\d+|"content":"[^"]*"', "", line) for line in lines))


def text_of(lines: list[str]) -> str:
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)


async def test_a_cold_stream_tells_what_it_waits_for_and_then_gives_the_engines_own_bytes(real: Service) -> None:
    """Comments name the phase of the start; after them comes what vLLM says, unchanged, up to [DONE]."""
    body = {"model": CHAT, "messages": ASK, "stream": True, "temperature": 0, "max_tokens": 16}

    lines = await lines_of(real.http, body)

    comments = [line for line in lines if line.startswith(":")]
    phases = {found[1] for comment in comments if (found := re.search(r"is starting on host \((.+)\)", comment))}
    assert "starting the engine process" in phases
    assert len(phases) > 2, comments
    last_comment = max(place for place, line in enumerate(lines) if line.startswith(":"))
    wire = lines[last_comment + 2 :]
    assert not any(line.startswith("data:") for line in lines[:last_comment])
    assert [line for line in wire if line][-1] == "data: [DONE]"
    assert "Paris" in text_of(wire)
    async with engine_client(await real.replica(CHAT_REPLICA)) as engine:
        direct = await lines_of(engine, body)
    assert text_of(wire) == text_of(direct)
    assert forms(wire) == forms(direct)


async def test_the_official_sdk_streams_a_chat_answer(real: Service) -> None:
    """The role comes first, then Paris, then why it ended, then the token counts."""
    stream = await sdk(real).chat.completions.create(
        model=CHAT,
        messages=ASK,
        stream=True,
        temperature=0,
        max_tokens=40,
        stream_options={"include_usage": True},
    )

    chunks = [chunk async for chunk in stream]

    spoken = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert spoken[0].delta.role == "assistant"
    assert "Paris" in "".join(choice.delta.content or "" for choice in spoken)
    assert spoken[-1].finish_reason == "stop"
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    row = await real.request(request_id(stream))
    assert (row["outcome"], row["completion_tokens"]) == ("succeeded", usage.completion_tokens)


async def test_two_streams_run_at_the_same_time(real: Service) -> None:
    """Tokens of either arrive between tokens of the other, and neither gets one that is not its own."""
    client, arrivals = sdk(real), []

    async def follow(name: str) -> set[str]:
        stream = await client.chat.completions.create(
            model=CHAT, messages=ASK, stream=True, max_tokens=40, extra_body={"ignore_eos": True}
        )
        ids = set()
        async for chunk in stream:
            ids.add(chunk.id)
            arrivals.append(name)
            finish = chunk.choices[0].finish_reason
        assert finish == "length"
        return ids

    await answer(client)
    first, second = await asyncio.gather(follow("a"), follow("b"))

    assert len(first) == len(second) == 1
    assert first != second
    assert min(arrivals.count("a"), arrivals.count("b")) > 20
    turns = sum(before != after for before, after in itertools.pairwise(arrivals))
    assert turns > 10, arrivals


async def test_completions_answer(real: Service) -> None:
    """The older text API works, too."""
    found = await sdk(real).completions.create(
        model=CHAT, prompt="The capital of France is", max_tokens=8, temperature=0
    )

    assert "Paris" in found.choices[0].text
    assert found.usage is not None
    assert found.usage.completion_tokens == 8


async def test_responses_answer_whole_and_as_a_stream(real: Service) -> None:
    """The responses API works through the SDK in both forms, and says the same."""
    client, wanted = sdk(real), {"model": CHAT, "input": ASK[0]["content"], "temperature": 0, "max_output_tokens": 40}

    whole = await client.responses.create(**wanted)
    events = [event async for event in await client.responses.create(**wanted, stream=True)]

    assert "Paris" in whole.output_text
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text


async def test_tokenize_is_passed_on(real: Service) -> None:
    """What only the engine has is reached by its own path, there and back."""
    split = (await real.http.post("/tokenize", json={"model": CHAT, "prompt": "Hello world"}, timeout=900)).json()

    joined = (await real.http.post("/detokenize", json={"model": CHAT, "tokens": split["tokens"]})).json()

    assert split["count"] == len(split["tokens"]) > 0
    assert joined["prompt"] == "Hello world"


@pytest.mark.parametrize("name", ["chat", "text2text"])
async def test_an_alias_and_a_type_name_the_model(real: Service, name: str) -> None:
    """A call may name a model by its alias, or by the kind of work only."""
    assert "Paris" in await answer(sdk(real), name)

    assert (await real.journal())[0]["model_id"] == CHAT


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_too_long_is_an_error_in_openais_shape(real: Service, stream: bool) -> None:
    """The SDK raises BadRequestError with a message, the field, and a code that is a text."""
    prompt: Any = [{"role": "user", "content": "one " * 3000}]

    with pytest.raises(openai.BadRequestError) as caught:
        await sdk(real).chat.completions.create(model=CHAT, messages=prompt, stream=stream)

    error = caught.value
    assert "2048" in error.message
    assert (error.type, error.code, error.param) == (
        "invalid_request_error",
        "context_length_exceeded",
        "input_tokens",
    )


async def test_embeddings_of_a_chat_model_are_refused(real: Service) -> None:
    """The error names what the model does instead, and no engine is started for it."""
    with pytest.raises(openai.BadRequestError, match=f"embedding; {CHAT} does text2text") as caught:
        await sdk(real).embeddings.create(model=CHAT, input="a cat")

    assert (caught.value.code, caught.value.param) == ("wrong_type", "model")


async def test_the_more_urgent_call_starts_first(real: Service) -> None:
    """Of three calls that wait for a slot the last to come starts first, for it has the highest priority."""
    client = sdk(real)
    blockers = [await endless(client) for _ in range(SLOTS)]
    calls = []
    for waiting, priority in enumerate((10, 10, 90), start=1):
        headers = {"X-Priority": str(priority)}
        calls.append(asyncio.create_task(answer(client, max_tokens=4, extra_headers=headers)))
        await real.busy(CHAT, running=SLOTS, waiting=waiting)

    await blockers.pop().close()
    await asyncio.gather(*calls)
    await blockers.pop().close()

    rows = [row for row in await real.journal() if row["priority"] in (10, 90)]
    by_start = sorted(rows, key=lambda row: row["started_at"])
    assert [row["priority"] for row in by_start] == [90, 10, 10]
    assert by_start[0]["created_at"] == max(row["created_at"] for row in rows)
    assert by_start[1]["created_at"] < by_start[2]["created_at"]


async def test_a_caller_that_leaves_frees_its_slot_here_and_in_the_engine(real: Service) -> None:
    """When the connection closes mid-stream, the lease ends and vLLM stops computing."""
    stream = await endless(sdk(real))
    view = await real.replica(CHAT_REPLICA)
    assert view["leases"] == 1
    assert await engine_running(view) == 1

    await stream.close()

    async def idle() -> bool:
        return (await real.replica(CHAT_REPLICA))["leases"] == 0 and await engine_running(view) == 0

    await until(idle, AT_ONCE_SECONDS, "no lease, and nothing running in the engine")
    assert (await real.request(request_id(stream)))["outcome"] == "cancelled"


async def test_a_killed_engine_is_an_error_at_once_and_comes_back_by_itself(real: Service) -> None:
    """SIGKILL of vLLM mid-stream: an error event, a new generation without any call for it, and the next answer."""
    client = sdk(real)
    stream, before = await endless(client), await real.replica(CHAT_REPLICA)

    os.killpg(real.pid(before), signal.SIGKILL)
    with pytest.raises(openai.APIError) as caught:
        await asyncio.wait_for(to_its_end(stream), AT_ONCE_SECONDS)

    async def back() -> bool:
        view = await real.replica(CHAT_REPLICA)
        return view["state"] == "ready" and view["generation"] == before["generation"] + 1

    assert caught.value.code == "engine_died"
    await until(back, FIRST_START_SECONDS, "the next generation is ready")
    assert "Paris" in await answer(client)
    row = await real.request(request_id(stream))
    assert (row["outcome"], row["error_code"]) == ("failed", "engine_died")


async def test_a_killed_control_plane_finds_its_engine_again(real: Service) -> None:
    """SIGKILL of the service mid-stream: the next life answers with the same process, which was never reloaded."""
    stream = await endless(sdk(real))
    before = await real.replica(CHAT_REPLICA)

    await real.kill()
    with pytest.raises((openai.APIError, httpx.HTTPError)):
        await asyncio.wait_for(to_its_end(stream), AT_ONCE_SECONDS)
    assert real.pid(before) in {process.pid for process in real.engines(CHAT_REPLICA)}
    await real.start()
    listening_at = time.monotonic()
    text = await answer(sdk(real))
    took_seconds = time.monotonic() - listening_at

    after = await real.replica(CHAT_REPLICA)
    assert "Paris" in text
    assert took_seconds < 5, "the promise is: the same engine process serves again within 5 s"
    assert [after[key] for key in ("handle", "generation", "endpoint")] == [
        before[key] for key in ("handle", "generation", "endpoint")
    ]
    assert (await real.request(request_id(stream)))["outcome"] == "interrupted"


async def test_a_call_for_the_other_model_swaps_them_within_the_budget(real: Service) -> None:
    """The idle model leaves and is gone before the other starts; memory in use never passes the budget."""
    client = sdk(real)
    await answer(client)
    seen = (await real.admin("events", limit=1000))["events"][-1]["id"]
    watch = MemoryWatch(real, CHAT_REPLICA, EMBED_REPLICA)

    swap = asyncio.create_task(client.embeddings.create(model=EMBED, input=["a cat", "a kitten", "a tax form"]))

    def answered() -> bool:
        watch.look()
        return swap.done()

    await until(answered, FIRST_START_SECONDS, "an answer from the other model")
    cat, kitten, form = (row.embedding for row in (await swap).data)
    assert len(cat) == len(kitten) == len(form) == 384
    assert cosine(cat, kitten) > cosine(cat, form)
    assert not watch.overlapped
    assert 500 < watch.peak_mib <= BUDGET_MIB
    events = (await real.admin("events", after=seen, limit=1000))["events"]
    moves = [event for event in events if not event["kind"].endswith("cordoned")]
    assert [(event["subject"], event["kind"]) for event in moves] == [
        (CHAT_REPLICA, "replica.stopping"),
        (CHAT_REPLICA, "replica.stopped"),
        (EMBED_REPLICA, "replica.starting"),
        (EMBED_REPLICA, "replica.ready"),
    ]
    assert (moves[0]["detail"]["reason"], moves[0]["detail"]["for"]) == ("evicted", EMBED)


async def test_the_end_leaves_nothing_behind(real: Service) -> None:
    """SIGTERM: exit status 0, and neither a process nor a socket of an engine remains."""
    await sdk(real).embeddings.create(model=EMBED, input="a cat")
    assert real.engines()
    assert real.litter()

    assert await real.stop() == 0

    real.assert_nothing_left()


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
