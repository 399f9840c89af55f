"""The folder of engines' sockets: whom it is made for, and what is told when it cannot be."""

import multiprocessing
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from controlplane.errors import ConfigError
from controlplane.runtime.docker_container import longest_sockets_folder
from controlplane.runtime.docker_sockets import prepare_sockets

OURS = f"{os.getuid()}:{os.getgid()}"
SERVICE, ENGINE = 3000, "4000:4000"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that any user reaches; it is the service's, whoever that is."""
    folder = Path(tempfile.mkdtemp(prefix="im-sockets-"))
    folder.chmod(0o755)
    if os.getuid() == 0:
        os.chown(folder, SERVICE, SERVICE)
    yield folder
    shutil.rmtree(folder)


def as_a_service(folder: Path, user: str) -> int | str | None:
    """What a service that is not root is told: the group, or a mistake's words."""
    forked = multiprocessing.get_context("fork")
    mine, theirs = forked.Pipe()
    child = forked.Process(target=_prepare, args=(theirs, folder, user))
    child.start()
    theirs.close()
    told: int | str | None = mine.recv()
    child.join()
    mine.close()
    return told


def _prepare(answer: Connection, folder: Path, user: str) -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(SERVICE)
        os.setuid(SERVICE)
    try:
        answer.send(prepare_sockets(folder, user))
    except ConfigError as exc:
        answer.send(str(exc))


def test_engines_of_our_own_user_need_nothing_more(tmp_path: Path) -> None:
    """The folder is ours alone, and keeps its mode however often it is prepared."""
    folder = tmp_path / "run" / "sockets"
    for _ in range(2):
        assert prepare_sockets(folder, OURS) is None
        assert stat.S_IMODE(folder.stat().st_mode) & 0o007 == 0


def test_other_engines_are_lent_our_group(place: Path) -> None:
    """What they make in the folder is that group's; strangers stay outside. A second start finds it as it is."""
    folder = place / "sockets"
    for _ in range(2):
        assert as_a_service(folder, ENGINE) == folder.stat().st_gid
        assert stat.S_IMODE(folder.stat().st_mode) == 0o2770


def test_a_folder_that_is_not_ours_to_open_is_told(tmp_path: Path, place: Path) -> None:
    """With the folder, the user, and what to change, at the start and not as an engine that never answers."""
    told = as_a_service(Path("/proc/self"), ENGINE)
    assert "engines are user 4000:4000 and cannot use /proc/self" in str(told)
    assert "leave out runtime.docker.user" in str(told)


def test_a_folder_that_the_kernel_would_not_take_is_a_mistake(tmp_path: Path) -> None:
    """Told with the setting and the length."""
    longest = longest_sockets_folder()
    fits = Path(str(tmp_path / "x").ljust(longest, "x"))
    prepare_sockets(fits, OURS)
    assert fits.is_dir()
    with pytest.raises(ConfigError, match=f"runtime.docker.sockets to one of at most {longest} bytes"):
        prepare_sockets(fits.with_name(f"{fits.name}x"), OURS)
