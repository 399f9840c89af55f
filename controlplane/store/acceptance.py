"""Jobs that are accepted in the same turn of the event loop, written together: two statements for all of them.

A draft that the store refuses is told so alone; the others of its group are written without it.
"""

import asyncio
from functools import partial

from controlplane.store import jobs
from controlplane.store.errors import Unavailable
from controlplane.store.records import JobDraft
from controlplane.store.writer import Writer

_Waiting = tuple[JobDraft, "asyncio.Future[str]"]


class Acceptance:
    """Used from one event loop only, like the writer below it."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._gathered: list[_Waiting] = []

    def submit(self, draft: JobDraft) -> "asyncio.Future[str]":
        """Done once the job is on disk: with its id, or that of the job its idempotency key stands for already."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        self._gathered.append((draft, future))
        if len(self._gathered) == 1:
            loop.call_soon(self._send)
        return future

    def _send(self) -> None:
        group, self._gathered = self._gathered, []
        self._write(group)

    def _write(self, group: list[_Waiting]) -> None:
        drafts = [draft for draft, _ in group]
        writing = self._writer.submit(partial(jobs.accept, drafts=drafts))
        writing.add_done_callback(partial(self._settle, group))

    def _settle(self, group: list[_Waiting], writing: "asyncio.Future[list[str]]") -> None:
        failure = writing.exception()
        if failure is None:
            for (_, future), request_id in zip(group, writing.result(), strict=True):
                if not future.done():
                    future.set_result(request_id)
        elif len(group) == 1 or isinstance(failure, Unavailable):
            for _, future in group:
                if not future.done():
                    future.set_exception(failure)
        else:
            for waiting in group:
                self._write([waiting])
