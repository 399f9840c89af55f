"""A receiver of callbacks on loopback: answers as a test tells it, and notes whatever comes."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HANG = b""


def status(code: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {code} Something", "content-length: 0", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


class Came(NamedTuple):
    """One callback as it arrived."""

    path: str
    host: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """`answers`: by path, in turn; the last one stays. HANG: never answers. Paths without any get OK."""

    port: int = 0
    answers: dict[str, list[bytes]] = field(default_factory=dict)
    came: list[Came] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0
    taken_bytes: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, count: int, path: str = "") -> list[Came]:
        """Wait until so many callbacks came (to paths that begin so); all of them."""

        def those() -> list[Came]:
            return [each for each in self.came if each.path.startswith(path)]

        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(lambda: len(those()) >= count)
        return those()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            came = await _read(reader)
            async with self._changed:
                self.came.append(came)
                self._changed.notify_all()
            await self._answer(came.path, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open_now -= 1
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        answers = self.answers.get(path, [OK])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        for start in range(0, len(answer), 65536):
            writer.write(answer[start : start + 65536])
            await writer.drain()
            self.taken_bytes += len(answer[start : start + 65536])
        if answer == HANG:
            await self._ended.wait()

    def end(self) -> None:
        self._ended.set()


async def _read(reader: asyncio.StreamReader) -> Came:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Came(first.split(" ")[1], headers["host"], headers, body)


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    here = Receiver()
    server = await asyncio.start_server(here.serve, "127.0.0.1", 0, ssl=tls)
    here.port = server.sockets[0].getsockname()[1]
    async with server:
        yield here
        here.end()
        server.close()
