"""What every adapter of vLLM's wire promises: tried on the simulated engine, and (`real`) on vLLM itself on the CPU.

Each world has one slot and takes four requests at most, so that order and refusals show.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import uvloop

from adapters.base import Call, Ending, EngineAdapter, ModelLaunch, Probe, Target
from adapters.http1 import Pool, Response
from adapters.simulated import SimulatedAdapter
from adapters.vllm import VllmAdapter
from tests.contract.engine_worlds import World, running

pytest_plugins = ("tests.real",)

TAIL_BYTES = 8192
CONTEXT_TOKENS = 1024
PATIENCE_SECONDS = 60
NAMES = ("tiny", "tiny-alias")
HOST = Target("host", 0, 16_384)
SIMULATED, WIRE, VLLM = "simulated", "vllm's wire, simulated", "vllm"
WORLDS = [SIMULATED, WIRE, pytest.param(VLLM, marks=pytest.mark.real)]
SOME_WORLDS = [SIMULATED, pytest.param(VLLM, marks=pytest.mark.real)]

Body = dict[str, Any]


def entry(**changes: Any) -> ModelLaunch:
    fields: Body = {"model_id": NAMES[0], "aliases": NAMES[1:], "types": ("text2text",), "model_path": ""}
    return ModelLaunch(**(fields | {"budget_mib": 128, "max_concurrency": 1} | changes))


def text_entry(kind: str, request: pytest.FixtureRequest, **options: Any) -> ModelLaunch:
    """A small text model: one slot, four requests at most."""
    if kind == VLLM:
        folder = request.getfixturevalue("model_folder")("smollm2-135m")
        given = {"max_model_len": CONTEXT_TOKENS, "max_num_queued_reqs": 4}
        return entry(model_path=str(folder), budget_mib=2560, options=given | options)
    given = {"max_model_len": CONTEXT_TOKENS, "max_num_queued_reqs": 4, "tokens_per_second": 200}
    return entry(options=given | options)


def embedding_entry(kind: str, request: pytest.FixtureRequest) -> ModelLaunch:
    """The shipped embedding model, with the budget that the shipped configuration gives it."""
    if kind == VLLM:
        folder = request.getfixturevalue("model_folder")("all-minilm-l6-v2")
        return entry(types=("embedding",), model_path=str(folder), budget_mib=2048)
    return entry(types=("embedding",))


@contextmanager
def opened(kind: str, model: ModelLaunch, request: pytest.FixtureRequest) -> Iterator[World]:
    """The model in an engine that is not waited for, beside the adapter under test."""
    adapter: EngineAdapter = SimulatedAdapter() if kind == SIMULATED else VllmAdapter()
    launcher = adapter if kind == VLLM else SimulatedAdapter()
    python = request.getfixturevalue("vllm_python") if kind == VLLM else None
    with running(launcher.launch(model, HOST), python) as engine:
        yield World(adapter, engine, model)


@pytest.fixture(scope="module", params=WORLDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with opened(request.param, text_entry(request.param, request), request) as world:
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


def chat(text: str = "What is the capital of France?", **fields: Any) -> Body:
    messages = [{"role": "user", "content": text}]
    return {"model": NAMES[0], "messages": messages, "temperature": 0, "max_tokens": 4} | fields


async def send(world: World, pool: Pool, path: str, body: Body | bytes, **call: Any) -> Response:
    """Send as the service does: the adapter's headers, the body as it is."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields: Body = {"request_id": "req-1", "priority": 50, "stream": isinstance(body, dict) and "stream" in body}
    wanted = Call("POST", path, content, b"application/json", **(fields | call))
    return await pool.send(wanted.method, wanted.path, world.adapter.headers(wanted), content)


async def whole(world: World, pool: Pool, path: str, body: Body | bytes, **call: Any) -> tuple[int, bytes]:
    response = await send(world, pool, path, body, **call)
    return response.status, await response.read(1 << 22)


async def until(world: World, running: int, waiting: int) -> Probe:
    """Look until that many requests run and wait."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            look = await world.adapter.probe(world.endpoint)
            if (look.running, look.waiting) == (running, waiting):
                return look


CALLS = {
    "chat": ("/v1/chat/completions", chat()),
    "completion": ("/v1/completions", {"model": NAMES[0], "prompt": "The capital of France is", "max_tokens": 4}),
    "response": ("/v1/responses", {"model": NAMES[0], "input": "The capital of France is", "max_output_tokens": 4}),
}


async def test_a_ready_engine_is_seen_as_ready_and_idle(world: World) -> None:
    """Ready, with nothing running or waiting, and a count of its progress."""
    look = await until(world, 0, 0)
    assert look.ready
    assert look.progressed is not None


def test_the_log_of_a_start_ends_as_ready(world: World) -> None:
    """The phases in words come from the log that this engine really wrote."""
    assert world.adapter.cold_phase(world.engine.log) == "ready"
    assert world.adapter.cold_phase(world.engine.log[:1]) != "ready"


@pytest.mark.parametrize("kind", CALLS)
async def test_an_answer_is_complete_and_counted(world: World, kind: str) -> None:
    """Whole answers of each kind end well and name their tokens."""
    path, body = CALLS[kind]
    assert world.adapter.serves(path)
    async with connected(world) as pool:
        status, answer = await whole(world, pool, path, body)
    verdict = world.adapter.verdict(answer[-TAIL_BYTES:], stream=False)
    assert (status, verdict.ending) == (200, Ending.COMPLETE)
    assert verdict.prompt_tokens
    assert verdict.prompt_tokens > 0
    assert verdict.completion_tokens
    assert 1 <= verdict.completion_tokens <= 4


@pytest.mark.parametrize("kind", CALLS)
async def test_a_stream_is_complete_only_with_its_end(world: World, kind: str) -> None:
    """The whole stream is complete and counted; cut anywhere before its end it is aborted."""
    path, body = CALLS[kind]
    options = {} if kind == "response" else {"stream_options": {"include_usage": True}}
    async with connected(world) as pool:
        status, stream = await whole(world, pool, path, {**body, "stream": True, **options})
    verdict = world.adapter.verdict(stream[-TAIL_BYTES:], stream=True)
    assert (status, verdict.ending) == (200, Ending.COMPLETE)
    assert verdict.completion_tokens
    assert verdict.prompt_tokens
    for end in range(0, len(stream.rstrip()) - 8, 101):
        assert world.adapter.verdict(stream[:end][-TAIL_BYTES:], stream=True).ending is Ending.ABORTED


async def test_a_closing_event_beyond_the_tail_is_recognised(world: World) -> None:
    """An event that repeats a large request is longer than what is kept of a stream."""
    metadata = {f"key-{number}": "v" * 500 for number in range(16)}
    path, body = CALLS["response"]
    async with connected(world) as pool:
        _, stream = await whole(world, pool, path, {**body, "stream": True, "metadata": metadata})
    verdict = world.adapter.verdict(stream[-2048:], stream=True)
    assert verdict.ending is Ending.COMPLETE
    assert verdict.completion_tokens


async def test_every_name_is_served(world: World) -> None:
    """The model's id and its aliases."""
    async with connected(world) as pool:
        for name in NAMES:
            assert (await whole(world, pool, "/v1/chat/completions", chat(model=name)))[0] == 200


async def test_work_shows_as_progress(world: World) -> None:
    """Every answer raises the count; an idle engine's stays."""
    before = await until(world, 0, 0)
    assert (await until(world, 0, 0)).progressed == before.progressed
    async with connected(world) as pool:
        await whole(world, pool, "/v1/chat/completions", chat())
    after = await until(world, 0, 0)
    assert before.progressed is not None
    assert after.progressed is not None
    assert after.progressed > before.progressed


async def test_closing_the_connection_cancels(world: World) -> None:
    """A stream that would go on for long leaves its slot as soon as we hang up, with or without a first byte."""
    async with connected(world) as pool:
        long = chat(max_tokens=900, ignore_eos=True, stream=True)
        response = await send(world, pool, "/v1/chat/completions", long)
        assert await response.next_chunk()
        waiting = asyncio.create_task(whole(world, pool, "/v1/chat/completions", chat()))
        await until(world, 1, 1)
        waiting.cancel()
        await until(world, 1, 0)
        response.close()
        await until(world, 0, 0)


async def test_the_higher_priority_goes_first(world: World) -> None:
    """Behind a busy slot, our 90 is answered before our 10 that came earlier; a full queue refuses and says busy."""
    order: list[int] = []

    async def ask(pool: Pool, priority: int) -> None:
        status, _ = await whole(world, pool, "/v1/chat/completions", chat(), priority=priority)
        assert status == 200
        order.append(priority)

    async with connected(world) as pool, asyncio.TaskGroup() as group:
        blocker = await send(world, pool, "/v1/chat/completions", chat(max_tokens=900, ignore_eos=True, stream=True))
        for ahead, priority in enumerate((10, 50, 90)):
            await until(world, 1, ahead)
            group.create_task(ask(pool, priority))
        await until(world, 1, 3)
        status, body = await whole(world, pool, "/v1/chat/completions", chat())
        error = world.adapter.error(status, body)
        assert (status, error.type, error.code, error.retryable) == (503, "server_error", "engine_busy", True)
        blocker.close()
    assert order == [90, 50, 10]


ERRORS: dict[str, tuple[str, Body | bytes, tuple[int, str, str | None]]] = {
    "unknown model": (
        "/v1/chat/completions",
        chat(model="nope"),
        (404, "not_found_error", "model_not_found"),
    ),
    "too long": (
        "/v1/chat/completions",
        chat("word " * 2 * CONTEXT_TOKENS),
        (400, "invalid_request_error", "context_length_exceeded"),
    ),
    "broken JSON": ("/v1/chat/completions", b'{"model":', (400, "invalid_request_error", None)),
    "wrong type": ("/v1/chat/completions", chat(messages="x"), (400, "invalid_request_error", None)),
    "no such path": ("/v1/nope", {}, (404, "not_found_error", None)),
}


@pytest.mark.parametrize("kind", ERRORS)
async def test_errors_are_openais_and_tell_nothing_of_the_host(world: World, kind: str) -> None:
    """Status, type and code as OpenAI has them, a sentence, and no path or socket of ours in it."""
    path, body, expected = ERRORS[kind]
    async with connected(world) as pool:
        status, answer = await whole(world, pool, path, body)
    error = world.adapter.error(status, answer)
    assert (error.status, error.type, error.code) == expected
    assert error.message
    assert not error.retryable
    assert not [word for word in world.secrets() if word in error.message]


async def test_an_engine_stays_within_its_budget(world: World) -> None:
    """After a long prompt too, the process tree holds no more than the launch was given."""
    async with connected(world) as pool:
        status, _ = await whole(world, pool, "/v1/chat/completions", chat("word " * 450))
    assert status == 200
    assert world.engine.memory_mib() <= world.model.budget_mib


# The tests below need an engine of their own, so they run once and not on each event loop.


@pytest.mark.parametrize("kind", SOME_WORLDS)
def test_a_core_that_fails_is_an_error_at_once(kind: str, request: pytest.FixtureRequest) -> None:
    """SIGKILL of the core (or its script) ends a stream that began with 200 as an error with a sentence."""
    crash = {} if kind == VLLM else {"script": json.dumps({"faults": [{"kind": "error", "token": 3}]})}

    async def scenario(world: World) -> None:
        async with connected(world) as pool:
            body = chat(max_tokens=900, ignore_eos=True, stream=True)
            response = await send(world, pool, "/v1/chat/completions", body)
            stream = await response.next_chunk() or b""
            if kind == VLLM:
                world.engine.kill_core()
            stream += await response.read(1 << 22)
        verdict = world.adapter.verdict(stream[-TAIL_BYTES:], stream=True)
        assert verdict.ending is Ending.ERROR
        assert verdict.message

    with opened(kind, text_entry(kind, request, **crash), request) as world:
        world.wait_ready()
        uvloop.run(scenario(world))


@pytest.mark.parametrize("kind", SOME_WORLDS)
def test_a_start_that_fails_names_its_cause(kind: str, request: pytest.FixtureRequest) -> None:
    """Out of a whole log, the one sentence that helps."""
    out_of_memory = json.dumps({"faults": [{"kind": "out_of_memory"}]})
    wrong: Body = {"no_such_thing": 5} if kind == VLLM else {"script": out_of_memory}
    cause = "unrecognized arguments: --no-such-thing" if kind == VLLM else "Free memory on device cuda:0"
    with opened(kind, text_entry(kind, request, **wrong), request) as world:
        assert world.engine.wait_ended() != 0
    assert world.adapter.failure(world.engine.log).startswith(cause)


@pytest.mark.parametrize("kind", SOME_WORLDS)
def test_embeddings_are_complete_and_counted(kind: str, request: pytest.FixtureRequest) -> None:
    """A body of many numbers is judged by its end, and takes no memory beyond the budget."""
    texts = [f"the cat number {number} sits on the mat" for number in range(16)]

    async def scenario(world: World) -> None:
        async with connected(world) as pool:
            status, answer = await whole(world, pool, "/v1/embeddings", {"model": NAMES[1], "input": texts})
        verdict = world.adapter.verdict(answer[-TAIL_BYTES:], stream=False)
        assert (status, verdict.ending) == (200, Ending.COMPLETE)
        assert verdict.prompt_tokens
        assert verdict.prompt_tokens >= 16 * 5
        assert len(json.loads(answer)["data"]) == 16
        assert world.engine.memory_mib() <= world.model.budget_mib

    with opened(kind, embedding_entry(kind, request), request) as world:
        world.wait_ready()
        uvloop.run(scenario(world))
