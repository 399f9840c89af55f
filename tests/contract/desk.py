"""The desk that tiny engines dial: the test's line to each real process, and the event of its end."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

PATIENCE_SECONDS = 60


@dataclass
class Visitor:
    """One process that dialled in."""

    role: str
    replica_id: str
    generation: int
    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def do(self, command: str) -> None:
        """Have it done, and wait until it is."""
        self.writer.write(f"{command}\n".encode())
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await self.reader.readline() == b"done\n"

    def order(self, command: str) -> None:
        """Tell it without waiting, for commands that it does not survive."""
        self.writer.write(f"{command}\n".encode())

    async def gone(self) -> None:
        """Wait for the process to end."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.reader.read(4096):
                pass


class Desk:
    """Accepts dialling processes; use as an async context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrived: asyncio.Queue[Visitor] = asyncio.Queue()
        self._waiting: list[Visitor] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._welcomes: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Desk":
        self._server = await asyncio.start_unix_server(self._connected, self.path)
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        for _ in range(3):
            # Whoever was being let in when the door closed gets a writer first, so that it is closed as well.
            await asyncio.sleep(0)
        for writer in self._writers:
            writer.close()
        for task in self._welcomes:
            task.cancel()
        await asyncio.gather(*self._welcomes, *(w.wait_closed() for w in self._writers), return_exceptions=True)
        await self._server.wait_closed()

    async def visitor(self, replica_id: str, role: str = "engine") -> Visitor:
        """The next process of this replica in this role, once it has dialled in."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                # One that hung up was an earlier life's.
                self._waiting = [visitor for visitor in self._waiting if not visitor.reader.at_eof()]
                for visitor in self._waiting:
                    if (visitor.replica_id, visitor.role) == (replica_id, role):
                        self._waiting.remove(visitor)
                        return visitor
                self._waiting.append(await self._arrived.get())

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._welcomes.append(asyncio.create_task(self._welcome(reader, writer)))

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        role, replica_id, generation, pid = (await reader.readline()).decode().split()
        self._arrived.put_nowait(Visitor(role, replica_id, int(generation), int(pid), reader, writer))
