"""One answer as it goes over the wire, kept so that several callers can be given the same one, also while it grows."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from controlplane.api.errors import is_error_event
from controlplane.api.reply import Message, Send
from controlplane.store.idempotency import KeptAnswer

_REPLAYED: Final = (b"idempotency-replayed", b"true")
_TRY_AGAIN: Final = frozenset({408, 409, 429})
_MAX_KEPT_BYTES: Final = 64 * 1024 * 1024


class Recording:
    """Grows by `add`; whoever plays it gets everything from the beginning and waits for the rest."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._grown = asyncio.Event()
        self._ended = False

    def add(self, message: Message) -> None:
        self._messages.append(message)
        self._note(ended=is_last(message))

    def break_off(self) -> None:
        """Nothing more will come; who plays it finds it incomplete."""
        self._note(ended=True)

    async def play(self, send: Send, *, replayed: bool) -> bool:
        """Send all of it as it comes. False: it was broken off."""
        place = 0
        while True:
            while place < len(self._messages):
                message = self._messages[place]
                place += 1
                await send(_marked(message) if replayed and message["type"] == "http.response.start" else message)
            if self._ended:
                return bool(self._messages) and is_last(self._messages[-1])
            await self._grown.wait()

    def kept_answer(self, last: Message) -> KeptAnswer | None:
        """The whole answer, given its last part, if it is one that stands: work was accepted and came to an end."""
        start = self._messages[0]
        parts = [message.get("body", b"") for message in (*self._messages[1:], last)]
        accepted = any(name == b"x-request-id" for name, _ in start["headers"])
        stands = start["status"] < 500 and start["status"] not in _TRY_AGAIN and not is_error_event(parts[-1])
        if not (accepted and stands and sum(map(len, parts)) <= _MAX_KEPT_BYTES):
            return None
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"])
        return KeptAnswer(start["status"], headers, b"".join(parts))

    def _note(self, *, ended: bool) -> None:
        self._ended = self._ended or ended
        self._grown.set()
        # Who waits for more than there is now waits for the next one.
        if not self._ended:
            self._grown = asyncio.Event()


def is_last(message: Mapping[str, Any]) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body")


async def replay(answer: KeptAnswer, send: Send) -> None:
    """A kept answer, marked as such."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": [*headers, _REPLAYED]})
    await send({"type": "http.response.body", "body": answer.body})


def _marked(start: Message) -> Message:
    return {**start, "headers": [*start["headers"], _REPLAYED]}
