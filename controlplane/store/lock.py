"""The lock that keeps a second control plane off the store.

A kernel file lock: it ends with the process that holds it, however that ends.
The file's text only tells people who holds it; it decides nothing.
"""

import asyncio
import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from controlplane.errors import StoreFailure, StoreHeld

# flock can wait, but not for a limited time, so a waiting opener looks again this often.
_LOOK_AGAIN_SECONDS = 0.1


class StoreLock:
    """An exclusive lock on a file, held until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    async def take(cls, path: Path, holder: str, at: float, wait_seconds: float) -> Self:
        """Lock `path` in the name of `holder`; StoreHeld once `wait_seconds` have passed."""
        descriptor = _open(path)
        try:
            await _lock(descriptor, path, wait_seconds)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _label(holder, at), 0)
        except OSError as exc:
            os.close(descriptor)
            raise StoreFailure(f"cannot lock the store {path}: {exc}") from exc
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Let the next one in. The file stays: removing it would let two in at once."""
        os.close(self._descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise StoreFailure(f"cannot open the store's lock {path}: {exc}") from exc


async def _lock(descriptor: int, path: Path, wait_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_seconds
    while not _try_lock(descriptor):
        if loop.time() >= deadline:
            raise StoreHeld(
                f"cannot open the store {path.with_suffix('')}: held by {_read_label(descriptor)}; "
                "stop that control plane, or give this one a store of its own"
            )
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _label(holder: str, at: float) -> bytes:
    since = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    return json.dumps({"holder": holder, "pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode()


def _read_label(descriptor: int) -> str:
    # The holder may be between taking the lock and writing its name.
    try:
        label = json.loads(os.pread(descriptor, 4096, 0))
        return f"{label['holder']} (pid {label['pid']} on {label['host']}, since {label['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
