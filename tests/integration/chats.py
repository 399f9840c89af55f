"""Calls that a test makes as an application would: chats through the SDK, and streams read as raw events."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk

from engines.simulated.text import expected_answer


async def ask(client: AsyncOpenAI, model: str, prompt: str, tokens: int = 4, **headers: Any) -> str:
    """A whole answer."""
    answer = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], max_tokens=tokens, extra_headers=headers or None
    )
    return answer.choices[0].message.content or ""


async def begin(client: AsyncOpenAI, model: str, prompt: str, tokens: int, **headers: Any) -> "Streaming":
    """A stream that has been answered with its first token."""
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=tokens,
        stream=True,
        extra_headers=headers or None,
    )
    streaming = Streaming(stream, prompt, tokens)
    while not streaming.text:
        await streaming.step()
    return streaming


async def streamed(client: AsyncOpenAI, model: str, prompt: str, tokens: int = 4, **headers: Any) -> str:
    """A whole answer by way of a stream."""
    return await (await begin(client, model, prompt, tokens, **headers)).rest()


@dataclass
class Streaming:
    """A stream under way."""

    stream: AsyncStream[ChatCompletionChunk]
    prompt: str
    tokens: int
    text: str = ""
    finish: str | None = None

    async def step(self) -> bool:
        """Take one event; False at the end."""
        try:
            chunk = await anext(self.stream)
        except StopAsyncIteration:
            return False
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            self.finish = choice.finish_reason or self.finish
        return True

    async def rest(self) -> str:
        """Everything until the end. Raises openai.APIError when the stream ends in an error."""
        while await self.step():
            pass
        return self.text

    @property
    def complete(self) -> bool:
        """Whether every token came, and none of anybody else's."""
        return self.text == expected_answer(self.prompt, self.tokens) and self.finish in ("length", "stop")

    async def leave(self) -> None:
        """The application goes away."""
        await self.stream.close()


@dataclass
class RawEvents:
    """A stream of server-sent events as it comes, line by line, comments included."""

    response: httpx.Response
    lines: AsyncIterator[str]
    comments: list[str] = field(default_factory=list)
    errors: list[Any] = field(default_factory=list)

    @property
    def request_id(self) -> str:
        return self.response.headers["x-request-id"]

    async def comment(self) -> str:
        """The next comment."""
        async for line in self.lines:
            if line.startswith(":"):
                self.comments.append(line.removeprefix(":").strip())
                return self.comments[-1]
        raise AssertionError("the stream ended without another comment")

    async def error(self) -> Any:
        """The error that ends the stream."""
        async for line in self.lines:
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    return event["error"]
        raise AssertionError("the stream ended without an error")


@asynccontextmanager
async def raw_stream(
    http: httpx.AsyncClient, model: str, prompt: str = "hello", tokens: int = 4, **headers: str
) -> AsyncIterator[RawEvents]:
    """A streaming chat without the SDK, which hides comments."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "stream": True}
    async with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        yield RawEvents(response, response.aiter_lines())


def later(coroutine: Any) -> "asyncio.Task[Any]":
    """Run it beside the test."""
    return asyncio.create_task(coroutine)
