"""Tokens reach the caller as the engine makes them, the first one too: nothing on the way holds them back."""

import asyncio
import json
import re
from typing import Any

import httpx
from service import Serve, Service, model

TOKENS = 5
# Slow enough for the caller to ask the engine about each token before it makes the next.
PACED = {"tokens_per_second": 4}
_TOKEN = re.compile(rb'"delta":\{"content":"[^"]+"')
_MADE = re.compile(r"^vllm:generation_tokens_total\S* (\S+)$", re.MULTILINE)


async def test_every_token_is_there_before_the_next_is_made(serve: Serve) -> None:
    """At each receipt there is exactly one token more, and the engine has not made another one yet."""
    service = await serve(model("a", min_replicas=1, script=PACED))
    replica = await service.in_state("a-0", "ready")
    transport = httpx.AsyncHTTPTransport(uds=replica["endpoint"].removeprefix("unix:"))

    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as engine:
        made_before = await _made(engine)
        received, seen = b"", []
        reader, writer = await _send(service)
        while not received.endswith(b"0\r\n\r\n"):
            received += await reader.read(65536)
            seen.append((len(_TOKEN.findall(received)), await _made(engine) - made_before))
        writer.close()
        await writer.wait_closed()

    at_tokens = [pair for n, pair in enumerate(seen) if pair[0] != (seen[n - 1][0] if n else 0)]
    assert at_tokens == [(token, token) for token in range(1, TOKENS + 1)]


async def test_the_head_of_a_stream_does_not_wait_for_its_first_token(serve: Serve) -> None:
    """While the engine still reads the prompt, the caller already has status and headers."""
    service = await serve(model("a", min_replicas=1, script={"prefill_seconds": 2.0}))
    replica = await service.in_state("a-0", "ready")
    transport = httpx.AsyncHTTPTransport(uds=replica["endpoint"].removeprefix("unix:"))

    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as engine:
        reader, writer = await _send(service)
        head = await reader.readuntil(b"\r\n\r\n")
        made = await _made(engine)
        rest = await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    assert head.startswith(b"HTTP/1.1 200 ")
    assert made == 0
    assert len(_TOKEN.findall(rest)) == TOKENS


async def _send(service: Service) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A streaming chat on a bare socket: HTTP libraries may collect what comes."""
    url = httpx.URL(service.base_url)
    asked: dict[str, Any] = {"model": "a", "stream": True, "max_tokens": TOKENS}
    body = json.dumps({**asked, "messages": [{"role": "user", "content": "Count slowly, please."}]}).encode()
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {url.netloc.decode()}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return reader, writer


async def _made(engine: httpx.AsyncClient) -> int:
    """Tokens that the engine has made since its start."""
    found = _MADE.search((await engine.get("/metrics")).text)
    assert found is not None
    return int(float(found[1]))
