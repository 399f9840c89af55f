"""Reads pictures that callers name by path: from one configured folder and nowhere else.

Every component is opened relative to the one before and none may be a symbolic link, so that what was checked is what
is read, whatever changes meanwhile.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from adapters.base import NormalError
from controlplane.errors import RequestRejected
from controlplane.media.refusals import refused

_MIB = 1024 * 1024
_STEP = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
# O_NONBLOCK: opening a FIFO would otherwise wait for somebody to write into it.
_FILE = _STEP | os.O_NONBLOCK | os.O_NOCTTY


class MediaFolder:
    """`folder` None: no path is read at all."""

    def __init__(self, folder: Path | None, max_mib: float) -> None:
        self._folder = folder
        self._max_bytes = int(max_mib * _MIB)

    async def read(self, image_path: str, param: str = "image_path") -> bytes:
        """The file's bytes; `image_path` is relative to the folder or lies below it. Raises RequestRejected."""
        if self._folder is None:
            raise RequestRejected(
                NormalError(
                    403,
                    f'{param} needs "media": {{"folder": …}} in the configuration; send the picture itself instead',
                    "permission_error",
                    param,
                    "no_media_folder",
                )
            )
        return await asyncio.to_thread(_read, self._folder, image_path, self._max_bytes, param)


def _read(folder: Path, image_path: str, max_bytes: int, param: str) -> bytes:
    parts = _parts(folder, image_path, param)
    try:
        with contextlib.ExitStack() as opened:
            place = opened.enter_context(_open(str(folder), os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY, None))
            for part in parts[:-1]:
                place = opened.enter_context(_open(part, _STEP | os.O_DIRECTORY, place))
            file = opened.enter_context(_open(parts[-1], _FILE, place))
            return _content(file, max_bytes, param)
    except OSError as exc:
        raise refused(param, f"{param} cannot be read from the media folder: {_reason(exc)}", "invalid_path") from exc


def _parts(folder: Path, image_path: str, param: str) -> tuple[str, ...]:
    if "\0" in image_path:
        raise refused(param, f"{param} holds a NUL character", "invalid_path")
    path = PurePosixPath(image_path)
    if ".." in path.parts:
        raise refused(param, f'{param} must not hold ".."', "invalid_path")
    if path.is_absolute():
        if not path.is_relative_to(folder):
            raise refused(param, f"{param} lies outside the media folder; give a path relative to it", "invalid_path")
        path = path.relative_to(folder)
    if not path.parts:
        raise refused(param, f"{param} names no file", "invalid_path")
    return path.parts


@contextlib.contextmanager
def _open(name: str, flags: int, place: int | None) -> Iterator[int]:
    descriptor = os.open(name, flags, dir_fd=place)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _content(file: int, max_bytes: int, param: str) -> bytes:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise refused(param, f"{param} is no ordinary file", "invalid_path")
    with os.fdopen(os.dup(file), "rb") as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise refused(param, f"{param} has more than {max_bytes / _MIB:g} MiB")
    return content


def _reason(exc: OSError) -> str:
    """Symbolic links show as ELOOP, or as ENOTDIR on the way; neither says so in its own words."""
    match exc:
        case FileNotFoundError():
            return "there is no such file"
        case PermissionError():
            return "permission denied"
    if exc.strerror and "symbolic" in exc.strerror:
        return "symbolic links are not followed"
    return (exc.strerror or type(exc).__name__).lower()
