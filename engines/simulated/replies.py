"""The sinks between the engine core and a connection: an answer sent whole, a stream, an embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engines.simulated.requests import Refusal, Wanted
from engines.simulated.shapes import DONE, Shape, event
from engines.simulated.text import Answer
from engines.simulated.wire import Connection

_BROKEN = Refusal(
    500,
    "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    "InternalServerError",
)


class WholeReply:
    """Sends one JSON answer at the end; an engine error is a 500."""

    def __init__(self, connection: Connection, content: Callable[[int, str], dict[str, Any]]) -> None:
        self._connection = connection
        self._content = content
        self._tokens = 0

    def tokens(self, _start: int, end: int) -> None:
        self._tokens = end

    def finished(self, reason: str) -> None:
        if reason == "error":
            self._connection.json(500, _BROKEN.content())
        else:
            self._connection.json(200, self._content(self._tokens, reason))


class StreamReply:
    """Sends every token as an event when it comes; an engine error is an event in the stream."""

    def __init__(self, connection: Connection, shape: Shape, wanted: Wanted) -> None:
        self._connection = connection
        self._shape = shape
        self._answer = Answer(wanted.prompt)
        self._tokens = 0
        self._begun = False

    def begin(self) -> None:
        """Send the head, once: as soon as the request is accepted, before its first token."""
        if not self._begun:
            self._begun = True
            self._connection.begin_events()

    def tokens(self, start: int, end: int) -> None:
        self.begin()
        opening = [] if start else self._shape.opening()
        self._tokens = end
        self._connection.events(*opening, *(self._shape.delta(self._answer.token(n)) for n in range(start, end)))

    def finished(self, reason: str) -> None:
        self.begin()
        if reason == "error":
            self._connection.events(event(_BROKEN.content()), DONE)
        else:
            opening = [] if self._tokens else self._shape.opening()
            text = self._answer.text(self._tokens)
            self._connection.events(*opening, *self._shape.closing(text, self._tokens, reason))
        self._connection.end_events()
