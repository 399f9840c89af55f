"""Two more corners of the store's front: files, and batches with their lines.

Like the store's own methods, these may raise StoreFailure; then nothing of that call took effect.
"""

from collections.abc import Callable, Sequence
from functools import partial

from controlplane.ports import Clock
from controlplane.store import batch_lines, batches, files
from controlplane.store.batch_records import BatchEnd, BatchRecord, FileRecord, LineEnd, LineProblem, Purpose, Taking
from controlplane.store.edges import Read
from controlplane.store.records import IdempotencyClaim, RequestAccepted
from controlplane.store.tables import batches as batch_rows
from controlplane.store.tables import files as file_rows
from controlplane.store.writer import Writer


def _unheard() -> None:
    """Before anybody runs batches."""


class Files:
    """The rows of files. `client` None stands for everybody's."""

    def __init__(self, writer: Writer, read: Read, clock: Clock) -> None:
        self._writer = writer
        self._read = read
        self._clock = clock

    async def add(self, row: FileRecord) -> None:
        await self._writer.commit(partial(files.write, row=row))

    async def one(self, file_id: str) -> FileRecord | None:
        return await self._read("read the file's row", partial(files.one, file_id=file_id))

    async def page(
        self, client: str | None, purpose: Purpose | None, after: str | None, limit: int, *, newest: bool
    ) -> list[FileRecord]:
        wanted = [] if client is None else [file_rows.c.client == client]
        if purpose is not None:
            wanted.append(file_rows.c.purpose == purpose.value)
        query = partial(files.page, wanted=wanted, after=after, limit=limit, newest=newest)
        return await self._read("list the files", query)

    async def remove(self, file_id: str) -> bool:
        """False when an open batch still needs it, or it is gone."""
        return await self._writer.commit(partial(files.remove, file_id=file_id))

    async def remove_expired(self) -> list[str]:
        """Some whose time is over."""
        return await self._writer.commit(partial(files.expired, now=self._clock()))

    async def known(self, file_ids: Sequence[str]) -> set[str]:
        return await self._read("look up the files", partial(files.known, file_ids=file_ids))


class Batches:
    """Batches and their lines. What changes a state answers False when the batch was not in the state for it."""

    def __init__(self, writer: Writer, read: Read, clock: Clock) -> None:
        self._writer = writer
        self._read = read
        self._clock = clock
        self.on_ended: Callable[[], None] = _unheard
        """Called when the last line of a batch has ended."""

    async def create(self, row: BatchRecord, claim: IdempotencyClaim | None) -> BatchRecord | None:
        """The batch, or the one its key stands for; None when its file is gone. Raises KeyReused."""
        return await self._writer.commit(partial(batches.create, row=row, claim=claim))

    async def one(self, batch_id: str) -> BatchRecord | None:
        return await self._read("read the batch", partial(batches.one, batch_id=batch_id))

    async def page(self, client: str | None, after: str | None, limit: int) -> list[BatchRecord]:
        """Newest first; `client` None: everybody's."""
        wanted = [] if client is None else [batch_rows.c.client == client]
        return await self._read("list the batches", partial(batches.page, wanted=wanted, after=after, limit=limit))

    async def not_over(self) -> list[BatchRecord]:
        return await self._read("read the open batches", batches.not_over)

    async def begin(self, batch_id: str, total: int) -> bool:
        return await self._writer.commit(partial(batches.begin, batch_id=batch_id, total=total, at=self._clock()))

    async def refuse(self, batch_id: str, problems: Sequence[LineProblem]) -> bool:
        at = self._clock()
        return await self._writer.commit(partial(batches.refuse, batch_id=batch_id, problems=problems, at=at))

    async def cancel(self, batch_id: str) -> bool:
        return await self._writer.commit(partial(batches.cancel, batch_id=batch_id, at=self._clock()))

    async def finalize(self, batch_id: str) -> bool:
        return await self._writer.commit(partial(batches.finalize, batch_id=batch_id, at=self._clock()))

    async def finish(self, end: BatchEnd) -> bool:
        return await self._writer.commit(partial(batches.finish, end=end))

    async def take(self, taking: Taking) -> bool:
        return await self._writer.commit(partial(batch_lines.take, taking=taking))

    async def ends(self, batch_id: str, after: int, limit: int) -> list[LineEnd]:
        query = partial(batch_lines.ends, batch_id=batch_id, after=after, limit=limit)
        return await self._read("read the lines of the batch", query)

    async def not_ended(self, batch_id: str, limit: int) -> list[RequestAccepted]:
        query = partial(batch_lines.not_ended, batch_id=batch_id, limit=limit)
        return await self._read("read the open lines of the batch", query)

    async def expired(self, batch_id: str) -> int:
        return await self._read("count the late lines", partial(batch_lines.expired, batch_id=batch_id))

    async def clear_lines(self) -> None:
        """Forget the lines of batches that are over, in small transactions."""
        while await self._writer.commit(batch_lines.clear):
            pass
