"""The folder of engines' sockets: made, and opened to engines that are another user's, but to nobody else."""

import os
import stat
from pathlib import Path

from controlplane.errors import ConfigError
from controlplane.runtime.docker_container import ids, longest_sockets_folder

_ROOT = 0
# What is made in it belongs to its group, which the engines are lent.
_SHARED_MODE = stat.S_ISGID | 0o770


def prepare_sockets(folder: Path, user: str) -> int | None:
    """Make `folder` usable by engines of `user` (as `2000:2000`). Raises ConfigError.

    The group through which they and we share it; None where none is needed.
    """
    _check_length(folder)
    folder.mkdir(mode=0o770, parents=True, exist_ok=True)
    theirs = ids(user)
    if theirs[0] == os.getuid():
        return None
    try:
        if os.getuid() == _ROOT:  # who may go anywhere, and need not lend them its group
            os.chown(folder, *theirs)
            return None
        return _shared(folder)
    except PermissionError as exc:
        raise ConfigError(
            f"engines are user {user} and cannot use {folder}, where their sockets go: make it the service's own, "
            f"or leave out runtime.docker.user"
        ) from exc


def _shared(folder: Path) -> int:
    """Raises PermissionError."""
    if stat.S_IMODE(folder.stat().st_mode) != _SHARED_MODE:
        folder.chmod(_SHARED_MODE)
    found = folder.stat()
    if not found.st_mode & stat.S_ISGID or found.st_gid not in {os.getegid(), *os.getgroups()}:
        raise PermissionError(f"group {found.st_gid} of {folder} is not ours")
    return found.st_gid


def _check_length(folder: Path) -> None:
    longest = longest_sockets_folder()
    if len(str(folder).encode()) > longest:
        raise ConfigError(
            f"the path of the folder for engines' sockets is too long for the kernel: {folder}; "
            f"set runtime.docker.sockets to one of at most {longest} bytes"
        )
