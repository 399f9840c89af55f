"""Paths and request headers."""

from __future__ import annotations

import pytest

from adapters.base import Call
from adapters.vllm import VllmAdapter


def call(**changes: object) -> Call:
    fields: dict[str, object] = {
        "method": "POST",
        "path": "/v1/chat/completions",
        "body": b"{}",
        "content_type": b"application/json",
        "request_id": "req-1",
        "priority": 50,
        "stream": False,
    }
    return Call(**(fields | changes))  # type: ignore[arg-type]


def test_the_headers_of_a_call() -> None:
    """What vLLM reads, and the caller's trace; the connection adds Host and framing."""
    trace = ((b"traceparent", b"00-1-2-01"),)
    assert VllmAdapter(cores=1).headers(call(stream=True, trace_headers=trace)) == [
        (b"content-type", b"application/json"),
        (b"x-request-id", b"req-1"),
        (b"x-vllm-priority", b"50"),
        (b"accept", b"text/event-stream"),
        *trace,
    ]


@pytest.mark.parametrize(("ours", "theirs"), [(100, b"0"), (99, b"1"), (0, b"100")])
def test_priorities_are_turned_round(ours: int, theirs: bytes) -> None:
    """Our highest is vLLM's lowest number, which it serves first."""
    assert dict(VllmAdapter(cores=1).headers(call(priority=ours)))[b"x-vllm-priority"] == theirs


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/tokenize", "/v2/rerank"])
def test_paths_that_are_passed_on(path: str) -> None:
    """What callers use of vLLM."""
    assert VllmAdapter(cores=1).serves(path)


@pytest.mark.parametrize(
    "path", ["/v1/responses/resp_1", "/metrics", "/sleep", "/collective_rpc", "/v1/load_lora_adapter", "/health", "/"]
)
def test_paths_that_are_not(path: str) -> None:
    """Stored responses live in one replica only, and nothing that steers or shows the engine is for callers."""
    assert not VllmAdapter(cores=1).serves(path)
