"""Brings batches from their file to their output: a bounded step of one after the other, each step safe to repeat.

What is true of a batch is in the store; a death at any moment costs the step that was under way.
"""

import asyncio
from dataclasses import dataclass

import structlog

from controlplane.errors import RequestRejected, StoreFailure
from controlplane.loop.batches.input_file import read_line, read_part, survey
from controlplane.loop.batches.lines import Taker
from controlplane.loop.batches.output_files import OutputFiles
from controlplane.loop.dispatcher import Dispatcher
from controlplane.loop.jobs.orders import JobOrders
from controlplane.media.file_folder import FileFolder
from controlplane.ports import Clock
from controlplane.store.batch_records import BatchEnd, BatchRecord, BatchStatus, LineEnd
from controlplane.store.store import Store

log = structlog.get_logger(__name__)

_PART_LINES = 100
_PART_BYTES = 1024 * 1024
_CANCELS_AT_ONCE = 200
# A line of pictures is some MiB.
_ENDS_AT_ONCE = 20
_PAUSE_SECONDS = 1.0
_LOOK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class BatchParts:
    """What batches are brought on with."""

    store: Store
    folder: FileFolder
    taker: Taker
    dispatcher: Dispatcher
    orders: JobOrders
    clock: Clock
    max_line_bytes: int


class Batches:
    """One task; `wake` tells it that there is something new."""

    def __init__(self, parts: BatchParts) -> None:
        self._parts = parts
        self._news = asyncio.Event()
        self._resting: set[str] = set()
        parts.store.batches.on_ended = self.wake

    def wake(self) -> None:
        self._news.set()

    async def run(self) -> None:
        """For ever, or until the door is shut: then the rest is the next life's."""
        while True:
            self._news.clear()
            try:
                went_on = await self._round()
            except RequestRejected:
                return
            if not went_on:
                await self._wait()

    async def _round(self) -> bool:
        """One step of every open batch; whether any of them has more to do at once."""
        went_on = False
        try:
            await self._remove_expired_files()
            for batch in await self._parts.store.batches.not_over():
                if batch.batch_id not in self._resting:
                    went_on = await self._stepped(batch) or went_on
        except StoreFailure as exc:
            log.warning("batches.delayed", reason=str(exc))
            await asyncio.sleep(_PAUSE_SECONDS)
            return True
        return went_on

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._news.wait()
        except TimeoutError:
            return

    async def _stepped(self, batch: BatchRecord) -> bool:
        """One that cannot go on for now, because its file cannot be read, say, keeps no other one waiting."""
        try:
            return await self._step(batch)
        except StoreFailure as exc:
            log.warning("batch.delayed", batch=batch.batch_id, reason=str(exc))
            self._resting.add(batch.batch_id)
            asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._rested, batch.batch_id)
            return False

    def _rested(self, batch_id: str) -> None:
        self._resting.discard(batch_id)
        self.wake()

    async def _step(self, batch: BatchRecord) -> bool:
        match batch.status:
            case BatchStatus.VALIDATING:
                return await self._validate(batch)
            case BatchStatus.IN_PROGRESS:
                return await self._go_on(batch)
            case BatchStatus.CANCELLING:
                return await self._cancel(batch)
            case _:
                return await self._finish(batch, await self._last_status(batch))

    async def _validate(self, batch: BatchRecord) -> bool:
        parts = self._parts
        path = parts.folder.path(batch.input_file_id)
        total, problems = await asyncio.to_thread(survey, path, batch.endpoint, parts.max_line_bytes)
        if problems:
            await parts.store.batches.refuse(batch.batch_id, problems)
        else:
            await parts.store.batches.begin(batch.batch_id, total)
        return True

    async def _go_on(self, batch: BatchRecord) -> bool:
        late = self._parts.clock() >= batch.expires_at
        if batch.read_lines < batch.total and not late:
            await self._take(batch)
            return True
        if batch.completed + batch.failed >= batch.read_lines:
            return await self._parts.store.batches.finalize(batch.batch_id)
        return False

    async def _take(self, batch: BatchRecord) -> None:
        parts = self._parts
        path = parts.folder.path(batch.input_file_id)
        part = await asyncio.to_thread(read_part, path, batch.read_bytes, _PART_LINES, _PART_BYTES)
        taking, heads = parts.taker.taken(batch, part)
        if await parts.store.batches.take(taking):
            for head in heads:
                parts.dispatcher.enqueue(head)

    async def _cancel(self, batch: BatchRecord) -> bool:
        """End what is open of it, some at a time; then the batch itself."""
        rows = await self._parts.store.batches.not_ended(batch.batch_id, _CANCELS_AT_ONCE)
        if not rows:
            return await self._finish(batch, BatchStatus.CANCELLED)
        await asyncio.gather(*(self._parts.orders.cancel(row) for row in rows))
        return True

    async def _last_status(self, batch: BatchRecord) -> BatchStatus:
        late = batch.read_lines < batch.total or await self._parts.store.batches.expired(batch.batch_id)
        return BatchStatus.EXPIRED if late else BatchStatus.COMPLETED

    async def _finish(self, batch: BatchRecord, status: BatchStatus) -> bool:
        """Write its files and tell the store of them."""
        files = OutputFiles(self._parts.folder, status)
        try:
            end = await self._written(batch, status, files)
        except BaseException:
            await asyncio.to_thread(files.remove)
            raise
        try:
            # Cancelled while this commit is under way, the files stay: the next life knows whether they belong to it.
            ended = await self._parts.store.batches.finish(end)
        except StoreFailure:
            await asyncio.to_thread(files.remove)
            raise
        if ended:
            log.info("batch.ended", batch=batch.batch_id, status=status.value, good=end.completed, bad=end.failed)
        else:
            await asyncio.to_thread(files.remove)
        await self._parts.store.batches.clear_lines()
        return True

    async def _written(self, batch: BatchRecord, status: BatchStatus, files: OutputFiles) -> BatchEnd:
        await self._write_taken(batch, files)
        await self._write_untaken(batch, files)
        at = self._parts.clock()
        output = await asyncio.to_thread(files.output.keep, batch, at)
        errors = await asyncio.to_thread(files.errors.keep, batch, at)
        return BatchEnd(batch.batch_id, status, at, files.output.lines, files.errors.lines, output, errors)

    async def _write_taken(self, batch: BatchRecord, files: OutputFiles) -> None:
        last = 0
        while ends := await self._parts.store.batches.ends(batch.batch_id, last, _ENDS_AT_ONCE):
            await files.write(ends)
            last = ends[-1].n

    async def _write_untaken(self, batch: BatchRecord, files: OutputFiles) -> None:
        """Lines that were cancelled, or late, before they were read."""
        path, begin = self._parts.folder.path(batch.input_file_id), batch.read_bytes
        left = batch.total - batch.read_lines
        while left > 0:
            part = await asyncio.to_thread(read_part, path, begin, _PART_LINES, _PART_BYTES)
            if not part.lines and part.end == begin:
                return
            await files.write([_untaken(read_line(line, batch.endpoint).custom_id) for line in part.lines])
            begin, left = part.end, left - len(part.lines)

    async def tidy(self) -> None:
        """Remove what an earlier life left half done. To be called before anybody can upload a file."""
        store, folder = self._parts.store, self._parts.folder
        try:
            await asyncio.to_thread(folder.drop_unfinished)
            names = await asyncio.to_thread(folder.names)
            known = await store.files.known(names)
            for name in names:
                if name not in known:
                    await asyncio.to_thread(folder.remove, name)
            await store.batches.clear_lines()
        except StoreFailure as exc:
            log.warning("batches.not_tidied", reason=str(exc))

    async def _remove_expired_files(self) -> None:
        while names := await self._parts.store.files.remove_expired():
            for name in names:
                await asyncio.to_thread(self._parts.folder.remove, name)


def _untaken(custom_id: str) -> LineEnd:
    return LineEnd(0, custom_id, None, None, None, None, None, None)
