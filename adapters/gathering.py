"""A streamed chat as it grows, and the whole answer that it comes to: the same as if it had not been streamed."""

from collections.abc import Mapping

import orjson

_DATA = b"data:"
_END = b"[DONE]"


class ChatGathering:
    """Fed with the bytes of an event stream, however they are cut. What it cannot read, it leaves out."""

    def __init__(self) -> None:
        self._rest = b""
        self._texts: list[str] = []
        self._usage: object = None
        self._finish_reason: object = None

    @property
    def text(self) -> str:
        """What was said so far."""
        if len(self._texts) > 1:
            self._texts = ["".join(self._texts)]
        return self._texts[0] if self._texts else ""

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(_DATA):
                self._read(line.removeprefix(_DATA).strip())

    def whole(self) -> bytes:
        """The body of a chat completion."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": self.text},
            "finish_reason": self._finish_reason,
        }
        return orjson.dumps({"object": "chat.completion", "choices": [choice], "usage": self._usage})

    def _read(self, data: bytes) -> None:
        if data == _END:
            return
        try:
            fields = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        if not isinstance(fields, Mapping):
            return
        self._usage = fields.get("usage") or self._usage
        choices = fields.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping):
                self._take(choice)

    def _take(self, choice: Mapping[str, object]) -> None:
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        delta = choice.get("delta")
        content = delta.get("content") if isinstance(delta, Mapping) else None
        if isinstance(content, str):
            self._texts.append(content)
