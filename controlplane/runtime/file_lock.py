"""An exclusive lock between processes on one file: the kernel frees it when its last holder is gone.

The file names the holder, for the one who waits. It is never removed: removing a lock file that another process is
about to lock would let two hold it.
"""

import asyncio
import fcntl
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path


@asynccontextmanager
async def file_lock(path: Path, on_wait: Callable[[str], None]) -> AsyncIterator[int]:
    """Hold the lock on `path`; yields its file descriptor. `on_wait` hears once who holds it, if we must wait.

    Passed on to a child process, the descriptor keeps the lock held until that child ends too.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait(os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process")
        await _wait_for_lock(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


async def _wait_for_lock(descriptor: int) -> None:
    """Wait in a thread of its own, for flock can neither be awaited nor interrupted.

    A daemon: whoever gives up waiting, or exits, is not kept by it; it closes the descriptor itself then.
    """
    loop = asyncio.get_running_loop()
    locked: asyncio.Future[None] = loop.create_future()

    def deliver() -> None:
        if locked.cancelled():
            os.close(descriptor)
        else:
            locked.set_result(None)

    def wait() -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            loop.call_soon_threadsafe(deliver)
        except RuntimeError:  # the loop is closed: nobody wants the lock any more
            os.close(descriptor)

    threading.Thread(target=wait, name="file-lock", daemon=True).start()
    try:
        await locked
    except asyncio.CancelledError:
        if not locked.cancelled():  # cancelled after the lock had come: it is ours to give back
            os.close(descriptor)
        raise


@contextmanager
def lock_if_free(path: Path) -> Iterator[bool]:
    """Whether it could be locked at once; if so it is held for as long as this lasts."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        free = False
    else:
        free = True
    try:
        yield free
    finally:
        os.close(descriptor)
