"""Paths that callers name lead into the media folder and nowhere else."""

import os
import socket
from pathlib import Path

import pytest

from controlplane.errors import RequestRejected
from controlplane.media.folder import MediaFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A media folder with a picture in it and one below, beside a secret."""
    media = tmp_path / "media"
    (media / "sub").mkdir(parents=True)
    (media / "a.png").write_bytes(b"a")
    (media / "sub" / "b.png").write_bytes(b"b")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "media2").mkdir()
    (tmp_path / "media2" / "c.png").write_text("secret")
    return media


async def refusal(media: MediaFolder, image_path: str) -> RequestRejected:
    with pytest.raises(RequestRejected) as rejected:
        await media.read(image_path)
    assert rejected.value.error.param == "image_path"
    assert "image_path" in rejected.value.error.message
    assert "secret" not in rejected.value.error.message
    return rejected.value


@pytest.mark.parametrize(
    ("image_path", "content"), [("a.png", b"a"), ("sub/b.png", b"b"), ("./sub//./b.png", b"b"), ("a.png/", b"a")]
)
async def test_files_inside_are_read(folder: Path, image_path: str, content: bytes) -> None:
    """By a path relative to the folder, or by the whole path."""
    media = MediaFolder(folder, 1)
    assert await media.read(image_path) == content
    assert await media.read(str(folder / image_path)) == content


@pytest.mark.parametrize(
    "image_path",
    [
        "../secret",
        "sub/../../secret",
        "sub/../a.png",
        "/etc/passwd",
        "//etc/passwd",
        "",
        ".",
        "/",
        "a.png/x",
        "absent.png",
        "sub",
        "a.png\x00.jpg",
        "x" * 300,
        "y/" * 3000,
        "~/a.png",
        "file:///etc/passwd",
    ],
)
async def test_other_paths_are_refused(folder: Path, image_path: str) -> None:
    """Outside, upwards, absent, no file, or no path at all: a 400 that names the field."""
    assert (await refusal(MediaFolder(folder, 1), image_path)).error.status == 400


async def test_a_neighbour_with_a_longer_name_is_outside(folder: Path) -> None:
    """/media2 is not below /media."""
    await refusal(MediaFolder(folder, 1), str(folder.parent / "media2" / "c.png"))


async def test_links_are_not_followed(folder: Path) -> None:
    """Neither as the file nor on the way to it, neither outwards nor inside."""
    (folder / "out.png").symlink_to(folder.parent / "secret")
    (folder / "in.png").symlink_to(folder / "a.png")
    (folder / "up").symlink_to(folder.parent)
    (folder / "dangling.png").symlink_to("nowhere")
    for image_path in ("out.png", "in.png", "up/secret", "dangling.png"):
        await refusal(MediaFolder(folder, 1), image_path)


async def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    """It is the owner's choice."""
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert await MediaFolder(link, 1).read("a.png") == b"a"


async def test_what_is_no_ordinary_file_is_refused_at_once(folder: Path) -> None:
    """A FIFO that nobody writes to, a device, a socket: no waiting, no reading."""
    os.mkfifo(folder / "fifo.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "s.png"))
        for image_path in ("fifo.png", "s.png"):
            await refusal(MediaFolder(folder, 1), image_path)
    assert "no ordinary file" in (await refusal(MediaFolder(Path("/dev"), 1), "zero")).error.message


async def test_a_large_file_is_refused(folder: Path) -> None:
    """One byte above the limit; the limit itself is read."""
    (folder / "fits.png").write_bytes(bytes(1024 * 1024))
    (folder / "large.png").write_bytes(bytes(1024 * 1024 + 1))
    media = MediaFolder(folder, 1)
    assert len(await media.read("fits.png")) == 1024 * 1024
    assert "more than 1 MiB" in (await refusal(media, "large.png")).error.message


async def test_without_a_folder_no_path_is_read(tmp_path: Path) -> None:
    """And the answer says what to configure."""
    rejected = await refusal(MediaFolder(None, 1), str(tmp_path / "a.png"))
    assert rejected.error.status == 403
    assert '"folder"' in rejected.error.message


async def test_a_folder_that_is_not_there_is_no_crash(tmp_path: Path) -> None:
    """It may be mounted later."""
    assert "no such file" in (await refusal(MediaFolder(tmp_path / "absent", 1), "a.png")).error.message
