"""The journal: rows that callers leave behind without waiting, written soon after in one go.

Appending costs a list append. While the disk is away rows stay here, up to a limit,
and are written when it is back; nothing here ever slows a caller.
"""

import asyncio
from functools import partial

from controlplane.store import history
from controlplane.store.backlog import JournalRow, shed
from controlplane.store.errors import RowRefused, Unavailable
from controlplane.store.records import JournalLimits
from controlplane.store.writer import Writer


class Journal:
    """Used from one event loop only, like the writer below it. `dropped` counts rows lost."""

    def __init__(self, writer: Writer, limits: JournalLimits) -> None:
        self._writer = writer
        self._limits = limits
        self._rows: list[JournalRow] = []
        self._crowd = limits.flush_rows
        self._tended = False
        self._alarm: asyncio.TimerHandle | None = None
        self._tending: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._closed = False
        self.dropped = 0

    def append(self, row: JournalRow) -> None:
        rows = self._rows
        rows.append(row)
        if not self._tended:
            self._tend_in(self._limits.flush_seconds)
        elif len(rows) >= self._crowd:
            self._relieve()

    async def flush(self) -> None:
        """Return when all rows appended before are on disk. Raises Unavailable and keeps them if not."""
        # Shielded: a caller that gives up must not leave rows between memory and disk.
        await asyncio.shield(asyncio.ensure_future(self._flush()))

    async def close(self) -> None:
        """Flush a last time; raises Unavailable when rows are lost with it."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        try:
            await self.flush()
        finally:
            if self._tending is not None:
                await self._tending

    async def _flush(self) -> None:
        async with self._turn:
            rows, self._rows = self._rows, []
            left = await self._write(rows)
            if left:
                self._rows = left + self._rows
                # A caller's flush may fail after the background one found nothing left to come back for.
                if not self._tended:
                    self._tend_in(self._limits.retry_seconds)
                raise Unavailable(f"cannot write {len(left)} rows of the journal: {self._writer.failure}")
            self._crowd = self._limits.flush_rows

    async def _write(self, rows: list[JournalRow]) -> list[JournalRow]:
        """Write `rows` except those the database refuses; returns those it cannot take now."""
        if not rows:
            return []
        try:
            await self._writer.commit(partial(history.write, rows=rows))
        except Unavailable:
            return rows
        except RowRefused:
            if len(rows) == 1:
                self.dropped += 1
                return []
            middle = len(rows) // 2
            return await self._write(rows[:middle]) + await self._write(rows[middle:])
        return []

    def _tend_in(self, seconds: float) -> None:
        self._tended = not self._closed
        if self._tended:
            self._alarm = asyncio.get_running_loop().call_later(seconds, self._begin)

    def _begin(self) -> None:
        self._tending = asyncio.get_running_loop().create_task(self._tend())

    async def _tend(self) -> None:
        """Flush until little waits, then set the next alarm if anything does."""
        pause_seconds = self._limits.flush_seconds
        self._alarm = None
        self._crowd = self._limits.max_rows
        try:
            await self.flush()
            while len(self._rows) >= self._limits.flush_rows:
                await self.flush()
        except Unavailable:
            pause_seconds = self._limits.retry_seconds
            self._crowd = self._limits.max_rows
        finally:
            self._tended = False
            if self._rows:
                self._tend_in(pause_seconds)

    def _relieve(self) -> None:
        """Many rows wait: start early if the disk is not at work, else forget the oldest beyond the limit."""
        if len(self._rows) < self._limits.max_rows:
            if self._alarm is not None:
                self._alarm.cancel()
                self._begin()
                self._crowd = self._limits.max_rows
            return
        self._rows, lost = shed(self._rows, self._limits.max_rows * 7 // 8)
        self.dropped += lost
        # Shedding costs a pass over all rows, so the next one has to be some way off.
        self._crowd = max(self._limits.max_rows, len(self._rows) + self._limits.max_rows // 8)
