"""The simulated engine's wire, in a real process, through the official OpenAI SDK where it fits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_process import SimulatedProcess, chat, metrics, post, simulated, until

from engines.simulated.text import detokenize, expected_answer, tokenize

USER = "what is BLUE"


@pytest.fixture(scope="module")
def engine() -> Iterator[SimulatedProcess]:
    """One engine without pauses that serves two names, for tests that change nothing in it."""
    with simulated({"max_model_len": 1000}, models=("sim", "alias")) as engine:
        yield engine


@pytest.fixture
def client(engine: SimulatedProcess) -> Iterator[openai.OpenAI]:
    """The SDK, without retries."""
    with openai.OpenAI(base_url=engine.base_url, api_key="none", max_retries=0) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    """A chat answer holds the text its prompt determines, the right counts, and the caller's request id."""
    answer = client.chat.completions.create(
        model="alias",
        messages=[{"role": "system", "content": "be kind"}, {"role": "user", "content": USER}],
        max_tokens=5,
        extra_headers={"X-Request-Id": "r-1"},
    )
    assert answer.choices[0].message.content == expected_answer(USER, 5)
    assert "BLUE" in expected_answer(USER, 1)
    assert (answer.choices[0].finish_reason, answer.model, answer.id) == ("length", "alias", "chatcmpl-r-1")
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 5 + answer.usage.prompt_tokens)


def test_an_answer_without_a_limit_stops_by_itself(client: openai.OpenAI) -> None:
    """Without a limit the answer has the scripted length and ends with "stop"."""
    answer = client.chat.completions.create(model="sim", messages=[{"role": "user", "content": USER}])
    assert answer.choices[0].message.content == expected_answer(USER, 16)
    assert answer.choices[0].finish_reason == "stop"


def test_chat_stream(client: openai.OpenAI) -> None:
    """A stream gives the role first, then one event a token, then the reason, then the usage that was asked for."""
    chunks = list(
        client.chat.completions.create(
            model="sim",
            messages=[{"role": "user", "content": [{"type": "text", "text": USER}]}],
            max_completion_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content for chunk in chunks[1:-2]]
    assert len(texts) == 4
    assert "".join(text or "" for text in texts) == expected_answer(USER, 4)
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4


def test_completions(client: openai.OpenAI) -> None:
    """Completions take text or token ids and answer both alike, streamed or not."""
    by_text = client.completions.create(model="sim", prompt=USER, max_tokens=3)
    by_ids = client.completions.create(model="sim", prompt=tokenize(USER), max_tokens=3)
    stream = client.completions.create(model="sim", prompt=USER, max_tokens=3, stream=True)
    streamed = "".join(chunk.choices[0].text for chunk in stream)
    assert by_text.choices[0].text == by_ids.choices[0].text == streamed == expected_answer(USER, 3)


def test_responses(client: openai.OpenAI) -> None:
    """The Responses API gives the same text whole, and as typed events numbered without a gap."""
    whole = client.responses.create(model="sim", input=[{"role": "user", "content": USER}])
    assert (whole.output_text, whole.status) == (expected_answer(USER, 16), "completed")
    events = list(client.responses.create(model="sim", input=USER, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == expected_answer(USER, 16)
    assert whole.usage is not None
    assert whole.usage.output_tokens == 16


def test_embeddings(client: openai.OpenAI) -> None:
    """Embeddings depend on the text alone, have length one, and are the same as floats and as base64."""
    coded = client.embeddings.create(model="sim", input=["a", "b", "a"])
    plain = client.embeddings.create(model="sim", input=["a"], encoding_format="float", dimensions=16)
    assert coded.data[0].embedding == coded.data[2].embedding == plain.data[0].embedding
    assert coded.data[0].embedding != coded.data[1].embedding
    assert sum(value * value for value in plain.data[0].embedding) == pytest.approx(1)


def test_models(client: openai.OpenAI) -> None:
    """Every served name is listed."""
    assert [model.id for model in client.models.list()] == ["sim", "alias"]


@given(st.text())
def test_tokenize_is_reversible(text: str) -> None:
    """Any text survives being tokenized and put together again."""
    assert detokenize(tokenize(text)) == text


async def test_tokenize_routes(engine: SimulatedProcess) -> None:
    """`/tokenize` and `/detokenize` undo each other over the wire."""
    pool = engine.pool()
    status, tokenized = await post(pool, "/tokenize", {"model": "sim", "prompt": USER})
    assert (status, tokenized["count"], tokenized["max_model_len"]) == (200, len(tokenize(USER)), 1000)
    assert await post(pool, "/detokenize", {"tokens": tokenized["tokens"]}) == (200, {"prompt": USER})
    assert (await post(pool, "/detokenize", {"tokens": [1]}))[0] == 400
    pool.close()


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "param"),
    [
        ("/v1/chat/completions", chat("x", model="other"), 404, "NotFoundError", "model"),
        ("/v1/chat/completions", {"model": "sim"}, 400, "BadRequestError", "messages"),
        ("/v1/chat/completions", {"model": "sim", "messages": ["x"]}, 400, "BadRequestError", "messages"),
        ("/v1/chat/completions", chat("x", max_tokens=0), 400, "BadRequestError", "max_tokens"),
        ("/v1/chat/completions", chat("x", max_tokens="9"), 400, "BadRequestError", "max_tokens"),
        ("/v1/chat/completions", chat("x", max_tokens=1000), 400, "BadRequestError", "input_tokens"),
        ("/v1/chat/completions", chat("x" * 4000), 400, "BadRequestError", "input_tokens"),
        ("/v1/chat/completions", chat("x", stream=1), 400, "BadRequestError", "stream"),
        ("/v1/chat/completions", chat("x", n=2), 400, "BadRequestError", "n"),
        ("/v1/chat/completions", chat("x", priority=1.5), 400, "BadRequestError", "priority"),
        ("/v1/completions", {"model": "sim", "prompt": []}, 400, "BadRequestError", "prompt"),
        ("/v1/responses", {"model": "sim", "input": 3}, 400, "BadRequestError", "input"),
        ("/v1/embeddings", {"model": "sim", "input": [None]}, 400, "BadRequestError", "input"),
        ("/v1/embeddings", {"input": "x", "encoding_format": "b"}, 400, "BadRequestError", "encoding_format"),
    ],
)
async def test_errors_have_vllm_shape(
    engine: SimulatedProcess, path: str, body: dict[str, Any], status: int, kind: str, param: str
) -> None:
    """A wrong body is answered in vLLM's error shape, with the status repeated as a number."""
    pool = engine.pool()
    got, answer = await post(pool, path, body)
    assert got == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert (answer["error"]["type"], answer["error"]["param"], answer["error"]["code"]) == (kind, param, status)
    pool.close()


async def test_images_paths_and_bodies_it_cannot_take(engine: SimulatedProcess) -> None:
    """An image, no JSON, an unknown path and a wrong method are each refused with the right status."""
    pool = engine.pool()
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    status, answer = await post(pool, "/v1/chat/completions", {"messages": [image]})
    assert (status, "At most 0 image_url(s)" in answer["error"]["message"]) == (400, True)
    for method, path, body, expected in [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("GET", "/nowhere", b"", 404),
        ("GET", "/v1/chat/completions", b"", 405),
        ("GET", "/health", b"", 200),
    ]:
        response = await pool.send(method, path, [], body)
        assert response.status == expected
        await response.read(10_000)
    pool.close()


async def test_priority_and_slots() -> None:
    """With one slot the rest wait, and run by priority (lower first, the header above the body), not by arrival."""
    with simulated({"max_num_seqs": 1, "tokens_per_second": 40}) as engine:
        pool = engine.pool()
        first = await pool.send("POST", "/v1/completions", [], json.dumps(_endless()).encode())
        await first.next_chunk()
        done: list[str] = []

        async def ask(name: str, priority: int, **headers: str) -> None:
            body = chat(name, max_tokens=4, priority=priority)
            assert (await post(pool, "/v1/chat/completions", body, **headers))[0] == 200
            done.append(name)

        waiting = []
        for count, (name, priority, headers) in enumerate(
            [("low", 5, {}), ("mid", 0, {}), ("high", -5, {}), ("header", 7, {"x_vllm_priority": "-9"})], start=1
        ):
            waiting.append(asyncio.create_task(ask(name, priority, **headers)))
            await until(pool, "vllm:num_requests_waiting", count)
        first.close()
        await asyncio.gather(*waiting)
        assert done == ["header", "high", "mid", "low"]
        pool.close()


def _endless() -> dict[str, Any]:
    return {"model": "sim", "prompt": "x", "max_tokens": 30000, "stream": True}


async def test_too_many_requests_are_refused() -> None:
    """Above `max_num_queued_reqs` the answer is vLLM's 503, and below it again a 200."""
    with simulated({"max_num_queued_reqs": 1, "tokens_per_second": 10}) as engine:
        pool = engine.pool()
        first = await pool.send("POST", "/v1/completions", [], json.dumps(_endless()).encode())
        status, answer = await post(pool, "/v1/chat/completions", chat("x", stream=True))
        assert (status, answer["error"]["type"]) == (503, "Service Unavailable")
        assert (await metrics(pool))['vllm:admission_rejections_total{reason="max_num_queued_reqs"}'] == 1
        first.close()
        await until(pool, "vllm:num_requests_running", 0)
        assert (await post(pool, "/v1/chat/completions", chat("x", max_tokens=1)))[0] == 200
        pool.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_slot(stream: bool) -> None:
    """Closing the connection ends the generation, running or waiting, and is not counted as a success."""
    with simulated({"max_num_seqs": 1, "tokens_per_second": 10}) as engine:
        pool = engine.pool()
        body = json.dumps({**_endless(), "stream": stream}).encode()
        tasks = [asyncio.create_task(pool.send("POST", "/v1/completions", [], body)) for _ in range(2)]
        await until(pool, "vllm:num_requests_running", 1)
        await until(pool, "vllm:num_requests_waiting", 1)
        for task in tasks:
            if stream:
                (await task).close()
            else:
                task.cancel()
        await until(pool, "vllm:num_requests_running", 0)
        await until(pool, "vllm:num_requests_waiting", 0)
        samples = await metrics(pool)
        assert sum(value for name, value in samples.items() if name.startswith("vllm:request_success")) == 0
        pool.close()


async def test_a_hundred_paced_streams(tmp_path: Path) -> None:
    """A hundred streams at once over a unix socket each get their own tokens, all of them, and all are counted."""
    with simulated({"tokens_per_second": 50, "prefill_seconds": 0.05}, uds=tmp_path / "e.sock") as engine:
        pool = engine.pool()

        async def stream(number: int) -> None:
            text = f"stream number {number}"
            body = json.dumps(chat(text, stream=True, max_tokens=20)).encode()
            response = await pool.send("POST", "/v1/chat/completions", [], body)
            events = (await response.read(1 << 20)).decode().split("\n\n")
            assert events[-2:] == ["data: [DONE]", ""]
            choices = [json.loads(event[6:])["choices"][0] for event in events[:-2]]
            assert "".join(choice["delta"]["content"] for choice in choices) == expected_answer(text, 20)

        await asyncio.gather(*(stream(number) for number in range(100)))
        samples = await metrics(pool)
        assert samples["vllm:generation_tokens_total"] == 2000
        assert samples['vllm:request_success_total{finished_reason="length"}'] == 100
        assert samples["vllm:time_to_first_token_seconds_count"] == 100
        pool.close()


async def test_load_counts_requests_in_flight() -> None:
    """`/load` counts other requests in flight, not itself."""
    with simulated({"tokens_per_second": 10}) as engine:
        pool = engine.pool()
        for expected in (0, 1, 2):
            response = await pool.send("GET", "/load")
            assert json.loads(await response.read(100)) == {"server_load": expected}
            await pool.send("POST", "/v1/completions", [], json.dumps(_endless()).encode())
        pool.close()
