"""The content of callers' files, one file on disk for each, named by its id; there whole or not at all.

Which files there are is decided by the store; what it does not know is swept away when the service starts.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from controlplane.errors import StoreFailure

_UNFINISHED = ".part"
_NAME = re.compile(r"file-[0-9a-f]{27}", re.ASCII)


class FileFolder:
    """Blocks on the disk: call it beside the event loop. Raises StoreFailure where the disk fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, file_id: str) -> Path:
        """Where the content lies, or would lie. Raises ValueError for what is no id."""
        if _NAME.fullmatch(file_id) is None:
            raise ValueError(f"{file_id!r} is not the id of a file")
        return self._folder / file_id

    def begin(self, file_id: str) -> "Writing":
        """A new file, to be ended with `keep` or `drop`."""
        with _told("write a file"):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return Writing(self.path(file_id))

    def remove(self, file_id: str) -> None:
        with _told("remove a file"):
            self.path(file_id).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """The ids of everything that lies here."""
        with _told("list the files"):
            found = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        return [name for name in found if _NAME.fullmatch(name) is not None]

    def drop_unfinished(self) -> None:
        """What an earlier life was writing when it ended."""
        with _told("remove unfinished files"):
            for path in self._folder.glob(f"*{_UNFINISHED}"):
                path.unlink(missing_ok=True)


class Writing:
    """A file that is being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unfinished = path.with_name(path.name + _UNFINISHED)
        self._file: BinaryIO = self._unfinished.open("wb")
        self.size_bytes = 0

    def write(self, content: bytes) -> None:
        with _told("write a file"):
            self._file.write(content)
        self.size_bytes += len(content)

    def keep(self) -> None:
        """On disk under its name once this returns."""
        with _told("keep a file"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._unfinished.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def drop(self) -> None:
        """Nothing is left of it. After `keep` this does nothing."""
        with contextlib.suppress(OSError):
            # What could not be flushed is of no use any more.
            self._file.close()
        with _told("remove a file"):
            self._unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def _told(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StoreFailure(f"cannot {action}: {exc.strerror or exc}") from exc
