"""The single writer: whatever waits while one transaction commits shares the next one.

A transaction that fails because of one operation is run again one by one, so the
others do not suffer. State lives on the event loop; only transactions run in the thread.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from controlplane.store.errors import Unavailable, mapped

T = TypeVar("T")

_MAX_BATCH = 512


@dataclass(frozen=True, slots=True)
class _Waiting:
    operation: Callable[[Connection], Any]
    future: asyncio.Future[Any]


class Writer:
    """Runs operations in transactions, in the order they came. An operation may run twice:
    it must do nothing but read and write through its connection."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._waiting: deque[_Waiting] = deque()
        self._apart: deque[_Waiting] = deque()
        self._busy = False
        self.failure: str | None = None

    async def commit(self, operation: Callable[[Connection], T]) -> T:
        """Run `operation` and return its result once it is on disk.

        Raises what the operation raised, or Unavailable; then it left no trace.
        """
        return await self.submit(operation)

    def submit(self, operation: Callable[[Connection], T]) -> "asyncio.Future[T]":
        """Like `commit`, for callers that cannot wait here."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Waiting(operation, future))
        if not self._busy:
            self._busy = True
            # Not at once: everything else that becomes ready in this turn of the loop joins in.
            loop.call_soon(self._start, loop)
        return future

    async def exclusively(self, job: Callable[[], T]) -> T:
        """Run `job` in the writer's thread, between two transactions."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)

    async def close(self) -> None:
        """End the thread after what it was given."""
        await asyncio.to_thread(self._thread.shutdown)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = self._next_batch()
        if not batch:
            self._busy = False
            return
        work = loop.run_in_executor(self._thread, self._transact, [waiting.operation for waiting in batch])
        work.add_done_callback(partial(self._settle, loop, batch))

    def _next_batch(self) -> list[_Waiting]:
        while self._apart:
            waiting = self._apart.popleft()
            if not waiting.future.done():
                return [waiting]
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_BATCH))]
        # A caller that was cancelled before its turn no longer wants the write.
        return [waiting for waiting in taken if not waiting.future.done()] or (
            self._next_batch() if self._waiting else []
        )

    def _transact(self, operations: Sequence[Callable[[Connection], Any]]) -> list[Any]:
        with mapped("commit to the store"), self._engine.begin() as connection:
            return [operation(connection) for operation in operations]

    def _settle(
        self, loop: asyncio.AbstractEventLoop, batch: list[_Waiting], work: "asyncio.Future[list[Any]]"
    ) -> None:
        failure = work.exception()
        if failure is None:
            self.failure = None
            _resolve(batch, work.result())
        elif isinstance(failure, Unavailable):
            self.failure = str(failure)
            _reject(batch, failure)
        elif len(batch) == 1:
            _reject(batch, failure)
        else:
            self._apart.extend(batch)
        self._start(loop)


def _resolve(batch: list[_Waiting], results: list[Any]) -> None:
    for waiting, result in zip(batch, results, strict=True):
        if not waiting.future.done():
            waiting.future.set_result(result)


def _reject(batch: list[_Waiting], failure: BaseException) -> None:
    for waiting in batch:
        if not waiting.future.done():
            waiting.future.set_exception(failure)
