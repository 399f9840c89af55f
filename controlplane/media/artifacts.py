"""Files of results under content-addressed names, in one folder, within limits of size and age.

A file is there whole or not at all. What was least recently written or read goes first. Knows nothing of requests.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from controlplane.errors import StoreFailure
from controlplane.media.refusals import missing
from controlplane.ports import Clock

EXTENSIONS: Final = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
"""What is kept, and how it is named: types that no browser runs."""

_TYPES: Final = {extension: content_type for content_type, extension in EXTENSIONS.items()}
_NAME = re.compile(r"[0-9a-f]{64}\.(?:png|jpg|webp)", re.ASCII)
_UNFINISHED = ".part"
_UNFINISHED_AFTER = timedelta(hours=1)
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ArtifactLimits:
    """What the folder may hold; `max_age` counts from the last time a file was written or read."""

    max_mib: int
    max_age: timedelta


@dataclass(frozen=True, slots=True)
class Artifact:
    name: str
    path: Path
    content_type: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Kept:
    path: Path
    used_at: float
    size_bytes: int


class Artifacts:
    """Safe to use from many tasks and threads of this process, which alone writes to the folder."""

    def __init__(self, folder: Path, limits: ArtifactLimits, clock: Clock) -> None:
        self._folder = folder
        self._limits = limits
        self._clock = clock
        self._written_bytes = 0
        self._held: dict[str, set[str]] = {}
        # Held where a file's life is decided: kept alive by a use, put in place, or removed as unused.
        self._lives = threading.Lock()

    async def put(self, content: bytes, content_type: str) -> Artifact:
        """Keep it, durably before this returns. Raises StoreFailure; ValueError for a type that is not kept."""
        if content_type not in EXTENSIONS:
            raise ValueError(f'"{content_type}" is not kept; there are {", ".join(EXTENSIONS)}')
        return await asyncio.to_thread(self._put, content, content_type)

    async def put_for(self, holder: str, content: bytes, content_type: str) -> Artifact:
        """Like `put`; it stays until `holder` lets go. Raises StoreFailure or ValueError, and then holds nothing."""
        if content_type in EXTENSIONS:
            self.hold(holder, _name(content, content_type))
        try:
            return await self.put(content, content_type)
        except BaseException:
            self.let_go(holder)
            raise

    def hold(self, holder: str, name: str) -> None:
        """It is not removed, whatever its age, until `holder` lets go. In memory only."""
        with self._lives:
            self._held.setdefault(holder, set()).add(name)

    def let_go(self, holder: str) -> None:
        """Of all that it holds; harmless when that is nothing."""
        with self._lives:
            self._held.pop(holder, None)

    def open(self, name: str) -> tuple[Path, str]:
        """Where it is and its content type; counts as a use. Raises RequestRejected (404) or StoreFailure."""
        path = self._known(name)
        with self._lives:
            if not self._touched(path):
                raise missing(f"there is no artifact {name}; results are kept for a limited time")
        return path, _TYPES[path.suffix[1:]]

    async def read(self, name: str) -> tuple[bytes, str]:
        """The whole content and its type; counts as a use. Raises RequestRejected (404) or StoreFailure."""
        path, content_type = self.open(name)
        try:
            return await asyncio.to_thread(path.read_bytes), content_type
        except FileNotFoundError as exc:
            raise missing(f"there is no artifact {name}; results are kept for a limited time") from exc
        except OSError as exc:
            raise self._unusable(exc) from exc

    async def prune(self, now: float) -> int:
        """Remove what is too old or too much, and what a crash left half written; how many files. Raises StoreFailure.

        `now` is Unix seconds.
        """
        return await asyncio.to_thread(self._prune, now)

    def _put(self, content: bytes, content_type: str) -> Artifact:
        name = _name(content, content_type)
        path = self._folder / name
        if len(content) > self._limits.max_mib * _MIB:
            raise StoreFailure(f"cannot keep a result of {len(content)} bytes: artifacts.max_gib is less")
        with self._lives:
            known = self._touched(path)
        if not known:
            self._write(path, content)
        return Artifact(name, path, content_type, len(content))

    def _write(self, path: Path, content: bytes) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _unfinished(self._folder) as part:
                _write_durably(part, content)
                with self._lives:
                    part.replace(path)
                    self._touched(path)
            _sync_folder(self._folder)
        except OSError as exc:
            raise self._unusable(exc) from exc
        self._count(len(content))

    def _count(self, size_bytes: int) -> None:
        """Between two prunings a tenth of the room may be written, not more."""
        with self._lives:
            self._written_bytes += size_bytes
            due = self._written_bytes > self._limits.max_mib * _MIB // 10
        if due:
            self._prune(self._clock())

    def _prune(self, now: float) -> int:
        with self._lives:
            self._written_bytes = 0
        try:
            kept = sorted(_kept(self._folder), key=lambda file: file.used_at)
        except OSError as exc:
            raise self._unusable(exc) from exc
        excess = sum(file.size_bytes for file in kept) - self._limits.max_mib * _MIB
        with self._lives:
            held = {name for names in self._held.values() for name in names}
        removed = self._remove_unfinished(now)
        for file in kept:
            if excess <= 0 and file.used_at >= now - self._limits.max_age.total_seconds():
                break
            if file.path.name not in held and self._removed(file):
                excess -= file.size_bytes
                removed += 1
        return removed

    def _removed(self, file: _Kept) -> bool:
        """Unless it was used since it was looked at."""
        with self._lives, contextlib.suppress(FileNotFoundError):
            if file.path.stat().st_mtime <= file.used_at:
                file.path.unlink()
                return True
        return False

    def _remove_unfinished(self, now: float) -> int:
        removed = 0
        for part in self._folder.glob(f".*{_UNFINISHED}"):
            with contextlib.suppress(FileNotFoundError):
                if part.stat().st_mtime < now - _UNFINISHED_AFTER.total_seconds():
                    part.unlink()
                    removed += 1
        return removed

    def _touched(self, path: Path) -> bool:
        """Mark it as used just now; False when it is not there, or is anything but a file of ours."""
        now = self._clock()
        try:
            os.utime(path, (now, now), follow_symlinks=False)
            return stat.S_ISREG(path.lstat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as exc:
            raise self._unusable(exc) from exc

    def _unusable(self, exc: OSError) -> StoreFailure:
        return StoreFailure(f"cannot keep results in {self._folder}: {exc.strerror}; see artifacts.dir")

    def _known(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise missing("there is no such artifact; its name is 64 hex digits and .png, .jpg or .webp")
        return self._folder / name


def _name(content: bytes, content_type: str) -> str:
    return f"{hashlib.sha256(content).hexdigest()}.{EXTENSIONS[content_type]}"


def _kept(folder: Path) -> Iterator[_Kept]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    yield _Kept(Path(entry.path), found.st_mtime, found.st_size)


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """A name for a file that is not there once the block ends, whatever happens in it."""
    part = folder / f".{secrets.token_hex(16)}{_UNFINISHED}"
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _write_durably(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
