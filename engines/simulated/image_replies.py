"""The sinks of pictures: a whole answer, or partial pictures as they come. A step counts as a token.

The forms are OpenAI's, as our diffusers engine sends them.
"""

from __future__ import annotations

import base64
import time
from typing import Any, Protocol

from engines.simulated.image_requests import WantedOperation, WantedPictures, opened
from engines.simulated.pictures import Mark, digest, draw, encode
from engines.simulated.requests import Refusal, bad_request
from engines.simulated.shapes import event
from engines.simulated.text import count_tokens
from engines.simulated.wire import Connection

_BROKEN = Refusal(500, "the engine failed while it worked on this request", "server_error")
_ABORTED = Refusal(499, "the request was cancelled", "cancelled")
_FAILURES = {"error": _BROKEN, "abort": _ABORTED}


class PictureSink(Protocol):
    """Where the steps of one request go; `begin` is called once it was accepted."""

    def begin(self) -> None: ...

    def tokens(self, start: int, end: int, /) -> None: ...

    def finished(self, reason: str) -> None: ...


class Easel:
    """Draws what was wanted: the pictures of one request, seeds counting up from the first."""

    def __init__(self, wanted: WantedPictures, kind: str) -> None:
        self.wanted = wanted
        self.kind = kind  # image_generation or image_edit
        self._source = None if wanted.source is None else opened(wanted.source, "image")
        # A seed of its own for each request, as if by chance.
        self._seed = int(digest(wanted.request_id), 16) if wanted.seed is None else wanted.seed
        self._created = int(time.time())
        if self._seed + wanted.n > 1 << 63:
            raise bad_request("seed must leave room for n pictures", "seed")

    def picture(self, index: int, done: float = 1.0) -> str:
        """Base64 of one picture."""
        wanted = self.wanted
        source = digest(wanted.source or b"")
        mark = Mark(digest(wanted.prompt), self._seed + index, digest(wanted.request_id), source)
        drawn = draw(mark, wanted.size, done, self._source)
        return base64.b64encode(encode(drawn, wanted.output_format, wanted.compression)).decode()

    def whole(self) -> dict[str, Any]:
        """The answer that is not a stream."""
        data = [{"b64_json": self.picture(n), "seed": self._seed + n} for n in range(self.wanted.n)]
        return {"created": self._created, "data": data, **self._described(), "usage": self._usage()}

    def partial(self, index: int, done: float) -> bytes:
        name = f"{self.kind}.partial_image"
        picture = self.picture(0, done)
        content = {"type": name, "partial_image_index": index, "created_at": self._created, "b64_json": picture}
        return _named(name, {**content, **self._described()})

    def completed(self, index: int) -> bytes:
        name = f"{self.kind}.completed"
        content = {"type": name, "created_at": self._created, "b64_json": self.picture(index)}
        return _named(name, {**content, **self._described(), "usage": self._usage()})

    def _described(self) -> dict[str, Any]:
        width, height = self.wanted.size
        output_format = self.wanted.output_format
        return {"background": "opaque", "output_format": output_format, "size": f"{width}x{height}", "quality": "auto"}

    def _usage(self) -> dict[str, Any]:
        given, made = count_tokens(self.wanted.prompt), self.wanted.steps * self.wanted.n
        details = {"text_tokens": given, "image_tokens": 0}
        return {
            "input_tokens": given,
            "input_tokens_details": details,
            "output_tokens": made,
            "total_tokens": given + made,
        }


class WholePictures:
    """One JSON answer at the end."""

    def __init__(self, connection: Connection, easel: Easel) -> None:
        self._connection = connection
        self._easel = easel

    def begin(self) -> None:
        """Nothing is sent before the end."""

    def tokens(self, _start: int, _end: int) -> None:
        """Steps show in the metrics only."""

    def finished(self, reason: str) -> None:
        failure = _FAILURES.get(reason)
        if failure is not None:
            self._connection.json(failure.status, failure.content())
        else:
            self._connection.json(200, self._easel.whole())


class OperationReply:
    """The picture with one operation done to it."""

    def __init__(self, connection: Connection, wanted: WantedOperation) -> None:
        self._connection = connection
        self._wanted = wanted

    def begin(self) -> None:
        """Nothing is sent before the end."""

    def tokens(self, _start: int, _end: int) -> None:
        """An operation is one step."""

    def finished(self, reason: str) -> None:
        failure = _FAILURES.get(reason)
        if failure is not None:
            self._connection.json(failure.status, failure.content())
            return
        wanted = self._wanted
        made = wanted.operation.applied_to(wanted.picture)
        asked = wanted.operation.encoding()
        output_format = wanted.output_format if asked is None else asked.output_format
        content = encode(made, output_format, None if asked is None else asked.quality)
        answer = {
            "created": int(time.time()),
            "data": [{"b64_json": base64.b64encode(content).decode()}],
            "output_format": output_format,
            "size": f"{made.width}x{made.height}",
            "operation": wanted.operation.name,
            "method": "lanczos" if wanted.operation.name == "upscale" else "pillow",
        }
        self._connection.json(200, answer)


class PictureStream:
    """Partial pictures evenly over the steps, then each finished one as an event."""

    def __init__(self, connection: Connection, easel: Easel) -> None:
        self._connection = connection
        self._easel = easel
        wanted = easel.wanted
        shares = wanted.partial_images + 1
        self._due = [wanted.steps * (n + 1) // shares for n in range(wanted.partial_images)]
        self._shown = 0
        self._begun = False

    def begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._connection.begin_events()

    def tokens(self, _start: int, end: int) -> None:
        self.begin()
        while self._shown < len(self._due) and self._due[self._shown] <= end:
            done = self._due[self._shown] / self._easel.wanted.steps
            self._connection.events(self._easel.partial(self._shown, done))
            self._shown += 1

    def finished(self, reason: str) -> None:
        self.begin()
        failure = _FAILURES.get(reason)
        if failure is not None:
            self._connection.events(_named("error", failure.content()))
        else:
            self._connection.events(*map(self._easel.completed, range(self._easel.wanted.n)))
        self._connection.end_events()


def _named(name: str, content: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\n" + event(content)
