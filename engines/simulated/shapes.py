"""The three forms of a generated answer on vLLM's wire: chat, completions and responses, whole and streamed.

Built once for each request; what does not change from token to token is encoded once.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import orjson

from engines.simulated.requests import Wanted

Content = dict[str, Any]  # a JSON object about to be sent

DONE = b"data: [DONE]\n\n"


class Shape(Protocol):
    """How one request is answered."""

    def opening(self) -> list[bytes]:
        """The events before the first token."""

    def delta(self, text: str) -> bytes:
        """The event of one token."""

    def closing(self, text: str, tokens: int, reason: str, /) -> list[bytes]:
        """The events after the last token."""

    def whole(self, text: str, tokens: int, reason: str) -> Content:
        """The answer where nothing is streamed."""


def event(content: Content) -> bytes:
    return b"data: %s\n\n" % orjson.dumps(content)


def _usage(prompt_tokens: int, tokens: int) -> Content:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + tokens,
        "completion_tokens": tokens,
        "prompt_tokens_details": None,
    }


class _Choices(ABC):
    """What chat and completions have in common."""

    kind: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._base: Content = {
            "id": self.prefix + wanted.id,
            "object": self.kind,
            "created": int(time.time()),
            "model": wanted.model,
        }
        frame = event({**self._base, "choices": [self.choice("\0", None)]})
        before, after = frame.split(orjson.dumps("\0"))
        self._before, self._after = before, after

    @abstractmethod
    def choice(self, text: str, reason: str | None) -> Content:
        """The one choice of an event."""

    def delta(self, text: str) -> bytes:
        return self._before + orjson.dumps(text) + self._after

    def closing(self, _text: str, tokens: int, reason: str) -> list[bytes]:
        events = [event({**self._base, "choices": [self.choice("", reason)]})]
        if self._wanted.include_usage:
            events.append(event({**self._base, "choices": [], "usage": _usage(self._wanted.prompt_tokens, tokens)}))
        return [*events, DONE]


class ChatShape(_Choices):
    """POST /v1/chat/completions"""

    kind = "chat.completion.chunk"
    prefix = "chatcmpl-"

    def choice(self, text: str, reason: str | None) -> Content:
        return {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": reason}

    def opening(self) -> list[bytes]:
        first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return [event({**self._base, "choices": [first]})]

    def whole(self, text: str, tokens: int, reason: str) -> Content:
        message: Content = {"role": "assistant", "content": text, "refusal": None, "tool_calls": [], "reasoning": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason, "stop_reason": None}
        return {
            **self._base,
            "object": "chat.completion",
            "choices": [choice],
            "service_tier": None,
            "usage": _usage(self._wanted.prompt_tokens, tokens),
        }


class CompletionShape(_Choices):
    """POST /v1/completions"""

    kind = "text_completion"
    prefix = "cmpl-"

    def choice(self, text: str, reason: str | None) -> Content:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason, "stop_reason": None}

    def opening(self) -> list[bytes]:
        return []

    def whole(self, text: str, tokens: int, reason: str) -> Content:
        return {
            **self._base,
            "choices": [self.choice(text, reason)],
            "usage": _usage(self._wanted.prompt_tokens, tokens),
        }


class ResponseShape:
    """POST /v1/responses: typed events with sequence numbers, and no [DONE]."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._created = int(time.time())
        self._item_id = f"msg_{wanted.id}"
        self._sequence = 0

    def opening(self) -> list[bytes]:
        response = self._response("in_progress", [], None)
        return [
            self._typed("response.created", {"response": response}),
            self._typed("response.in_progress", {"response": response}),
            self._typed("response.output_item.added", {"output_index": 0, "item": self._item("in_progress", [])}),
            self._typed("response.content_part.added", {**self._place(), "part": _output_text("")}),
        ]

    def delta(self, text: str) -> bytes:
        return self._typed("response.output_text.delta", {**self._place(), "delta": text, "logprobs": []})

    def closing(self, text: str, tokens: int, reason: str) -> list[bytes]:
        part = _output_text(text)
        whole = self.whole(text, tokens, reason)
        item = self._item("completed", [part])
        return [
            self._typed("response.output_text.done", {**self._place(), "text": text, "logprobs": []}),
            self._typed("response.content_part.done", {**self._place(), "part": part}),
            self._typed("response.output_item.done", {"output_index": 0, "item": item}),
            self._typed(f"response.{whole['status']}", {"response": whole}),
        ]

    def whole(self, text: str, tokens: int, reason: str) -> Content:
        status = {"stop": "completed", "length": "incomplete"}.get(reason, "failed")
        response = self._response(status, [self._item("completed", [_output_text(text)])], tokens)
        if reason == "length":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        return response

    def _typed(self, kind: str, content: Content) -> bytes:
        encoded = orjson.dumps({"type": kind, "sequence_number": self._sequence, **content})
        self._sequence += 1
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), encoded)

    def _place(self) -> Content:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _item(self, status: str, content: list[Content]) -> Content:
        return {"id": self._item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _response(self, status: str, output: list[Content], tokens: int | None) -> Content:
        response: Content = {
            "id": f"resp_{self._wanted.id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": self._wanted.model,
            "output": output,
            "incomplete_details": None,
            "instructions": None,
            "metadata": None,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": None,
        }
        if tokens is not None:
            response["usage"] = {
                "input_tokens": self._wanted.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self._wanted.prompt_tokens + tokens,
            }
        return response


def _output_text(text: str) -> Content:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
