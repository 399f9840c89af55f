"""ContainerErrands: an errand as a container of its environment's image, gone when it is over.

A container outlives whoever began it, but not the next who holds its lock.
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import docker

from controlplane.errors import RuntimeFailure
from controlplane.runtime.commands import TAIL_LINES, CommandFailed, LineReader
from controlplane.runtime.docker_container import DockerSettings, errand_creation, errand_name, ids
from controlplane.runtime.docker_engine import ContainerMissing, DockerEngine, tell
from controlplane.runtime.docker_found import remove
from controlplane.runtime.docker_images import ensure_image, is_here
from controlplane.runtime.docker_label import ERRAND, MANAGED, STORE
from controlplane.runtime.errands import Errand, Listening
from controlplane.runtime.progress import OnProgress, Progress

_ROOT = 0


class ContainerErrands:
    """Implements `errands.Errands`."""

    def __init__(self, settings: DockerSettings, engine: DockerEngine) -> None:
        self._settings = settings
        self._engine = engine

    async def is_here(self, environment: str) -> bool:
        if environment not in self._settings.images:
            return False
        image = self._settings.image(environment).name
        return await self._engine.call(lambda client: is_here(client, image))

    async def prepare(self, environment: str, progress: OnProgress) -> None:
        image = self._settings.image(environment).name
        await ensure_image(self._engine, image, lambda said: progress(Progress(environment, "fetching", said)))

    async def run(self, errand: Errand, listening: Listening) -> None:
        asked = errand_creation(errand, await asyncio.to_thread(_words, errand.program), self._settings)
        user = ids(self._settings.errand_user)
        await self.end(errand.name)
        await asyncio.to_thread(_give, errand.folder, user)
        # A thread cannot be cancelled, and the container must not outlive us: let it be made, then undo it.
        creating = asyncio.create_task(self._engine.call(lambda client: client.containers.create(**asked)))
        try:
            container = await asyncio.shield(creating)
            await self._follow(str(container.id), listening)
        except ContainerMissing as exc:
            raise CommandFailed("python", None, [f"error: somebody else removed its container: {exc}"]) from exc
        finally:
            await _to_its_end(self._tidy(errand, creating))

    async def left(self) -> Sequence[str]:
        filters = {"label": [f"{MANAGED}=1", f"{STORE}={self._settings.store_id}", ERRAND]}
        found = await self._engine.call(lambda client: client.api.containers(all=True, filters=filters))
        return [one["Labels"][ERRAND] for one in found]

    async def end(self, name: str) -> None:
        container = errand_name(self._settings.store_id, name)
        await self._engine.call(lambda client: remove(client, container))

    async def close(self) -> None:
        await self._engine.close()

    async def _follow(self, container_id: str, listening: Listening) -> None:
        """Start it, hear all it says, and learn how it ended."""
        loop = asyncio.get_running_loop()
        with await asyncio.to_thread(listening.log.open, "a", encoding="utf-8") as log:
            output = _Output(log, listening.on_line)
            state = await self._engine.call_apart(
                lambda client: _run(client, container_id, partial(tell, loop, output.feed))
            )
            output.end()
        if state["OOMKilled"]:
            raise CommandFailed("python", None, ["error: out of memory; raise runtime.docker.memory_mib"])
        if state["ExitCode"] != 0:
            raise CommandFailed("python", int(state["ExitCode"]), [*output.tail, *filter(None, [state["Error"]])])

    async def _tidy(self, errand: Errand, creating: "asyncio.Task[Any]") -> None:
        await asyncio.wait([creating])
        with contextlib.suppress(RuntimeFailure):  # the engine is away: who holds the lock next will end it
            await self.end(errand.name)
        await asyncio.to_thread(_give, errand.folder, (os.getuid(), os.getgid()))


async def _to_its_end(tidying: Coroutine[Any, Any, None]) -> None:
    """A cancelled caller waits as well: what follows may use the folder again."""
    task = asyncio.create_task(tidying)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


class _Output:
    """What a container writes, line by line, to its log and its listener."""

    def __init__(self, log: TextIO, on_line: Callable[[str], None]) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._log = log
        self._on_line = on_line
        self._reader = LineReader()

    def feed(self, chunk: bytes) -> None:
        if not self._log.closed:  # whoever was cancelled listens no more
            self._take(self._reader.feed(chunk))

    def end(self) -> None:
        self._take(self._reader.end())

    def _take(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._log.write(f"{line}\n")
            self.tail.append(line)
            self._on_line(line)


def _run(client: docker.DockerClient, container_id: str, say: Callable[[bytes], None]) -> dict[str, Any]:
    """Blocks until it has ended; its state then."""
    client.api.start(container_id)
    for chunk in client.api.logs(container_id, stream=True, follow=True):
        say(chunk)
    client.api.wait(container_id, timeout=None)
    state: dict[str, Any] = client.api.inspect_container(container_id)["State"]
    return state


def _words(program: Path | str) -> list[str]:
    """A script travels as its text: images need not have it, nor the same of it as we do."""
    return ["-m", program] if isinstance(program, str) else ["-c", program.read_text(encoding="utf-8")]


def _give(folder: Path, owner: tuple[int, int]) -> None:
    """Make it theirs with all that is in it. Only root can, and needs to: others run errands as themselves."""
    if os.geteuid() != _ROOT:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, *owner, follow_symlinks=False)
