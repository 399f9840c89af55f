"""GET …/events: what happens to one request, as server-sent events, from where it is to its end.

Events tell the present state, so whoever comes late or back misses nothing that still matters.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import orjson

from controlplane.api.context import Context
from controlplane.core.plan import WaitKind
from controlplane.loop.jobs.board import Board, Progress
from controlplane.loop.outlook import Outlook
from controlplane.store.records import JobView
from controlplane.store.store import Store

_TICK_SECONDS = 1.0
_QUIET_TICKS = 15


class _Event(NamedTuple):
    name: str
    fields: dict[str, object]

    def frame(self) -> bytes:
        return b"event: " + self.name.encode() + b"\ndata: " + orjson.dumps(self.fields) + b"\n\n"


class Events:
    """The events of requests."""

    def __init__(self, context: Context) -> None:
        self._store: Store = context.store
        self._outlook: Outlook = context.outlook
        self._board: Board = context.jobs.board

    async def of(self, request_id: str) -> AsyncIterator[bytes]:
        """Frames of an event stream; the last one is `done`. After `queued` a text begins anew."""
        last, told, quiet = _NOTHING, 0, 0
        with self._board.changes.heard(request_id) as changed:
            while last.name != "done":
                changed.clear()
                event = await self._now(request_id)
                text = await self._text(request_id, event)
                if len(text) > told:
                    yield _Event("text", {"text": text[told:]}).frame()
                told, quiet = len(text), quiet + 1
                if event != last:
                    last, quiet = event, 0
                    yield event.frame()
                elif quiet % _QUIET_TICKS == 0:
                    # A proxy in between ends what is silent for long.
                    yield b": still there\n\n"
                if event.name != "done":
                    await _changed(changed)

    async def _text(self, request_id: str, event: _Event) -> str:
        """All that was said so far."""
        if event.name == "done":
            body = await self._store.job_result(request_id)
            text = orjson.loads(body).get("text") if body is not None else None
            return text if isinstance(text, str) else ""
        progress = self._board.progress(request_id)
        return progress.text if progress is not None else ""

    async def _now(self, request_id: str) -> _Event:
        waiting = self._outlook.of_request(request_id)
        if waiting is not None:
            loading = waiting.wait is not None and waiting.wait.kind is WaitKind.LOADING
            position = waiting.standing.position
            return _Event("loading" if loading else "queued", {"position": position, "reason": waiting.sentence})
        progress = self._board.progress(request_id)
        if progress is not None:
            return _step(progress) if progress.total else _PROCESSING
        view = await self._store.job(request_id)
        if view is None or view.history.request.outcome is not None:
            return _done(request_id, view)
        return _PROCESSING


_NOTHING = _Event("", {})
_PROCESSING = _Event("processing", {})


def _step(progress: Progress) -> _Event:
    return _Event("progress", {"done": progress.done, "total": progress.total, "unit": progress.unit})


def _done(request_id: str, view: JobView | None) -> _Event:
    status = "unknown" if view is None else view.history.request.status.value
    message = None if view is None else view.history.request.error_message
    return _Event("done", {"request_id": request_id, "status": status, "error_message": message})


async def _changed(event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_TICK_SECONDS):
            await event.wait()
    except TimeoutError:
        return
