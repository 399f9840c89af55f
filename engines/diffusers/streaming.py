"""Server-sent events, as OpenAI frames them: `event:` and `data:` with the same type, no `[DONE]` at the end."""

import asyncio
from collections.abc import AsyncIterator, Callable

from engines.diffusers.live import LiveRequest
from engines.diffusers.wire import CompletedImage, PartialImage


def frame(event: PartialImage | CompletedImage) -> bytes:
    return _frame(event.type, event.model_dump_json().encode())


async def frames(
    live: LiveRequest, shown: "asyncio.Queue[bytes | None]", leave: Callable[[], None]
) -> AsyncIterator[bytes]:
    """What is shown until the request is over; then its error, if it has one. `leave` is called at the end."""
    try:
        while (each := await shown.get()) is not None:
            yield each
        outcome = await asyncio.shield(live.task)
        if outcome.status != 200:
            yield _frame("error", outcome.content)
    finally:
        leave()


def _frame(event_type: str, content: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event_type.encode(), content)
