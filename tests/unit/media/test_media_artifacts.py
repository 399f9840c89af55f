"""Files of results: whole or not there, by content, within limits, never outside their folder."""

import asyncio
import hashlib
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.errors import RequestRejected, StoreFailure
from controlplane.media.artifacts import ArtifactLimits, Artifacts

PNG, JPEG = "image/png", "image/jpeg"
HOUR, DAY = 3600.0, 86400.0
KIB = 1024


class Time:
    """Unix seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def artifacts(folder: Path, time: Time, max_mib: int = 1) -> Artifacts:
    return Artifacts(folder / "artifacts", ArtifactLimits(max_mib, timedelta(days=30)), time)


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "artifacts").iterdir()}


async def test_what_is_put_can_be_read(tmp_path: Path, time: Time) -> None:
    """Under the hash of its content, with its type."""
    kept = artifacts(tmp_path, time)
    artifact = await kept.put(b"pixels", PNG)
    assert artifact.name == hashlib.sha256(b"pixels").hexdigest() + ".png"
    assert artifact.path.read_bytes() == b"pixels"
    assert (artifact.size_bytes, artifact.content_type) == (6, PNG)
    assert kept.open(artifact.name) == (artifact.path, PNG)
    assert await kept.read(artifact.name) == (b"pixels", PNG)
    assert artifact.path.stat().st_mode & 0o077 == 0


async def test_the_same_content_is_one_file(tmp_path: Path, time: Time) -> None:
    """However often it is put, at once too; as another type it is another name."""
    kept = artifacts(tmp_path, time)
    first, *others = await asyncio.gather(*(kept.put(b"same", PNG) for _ in range(20)))
    assert {artifact.name for artifact in others} == {first.name}
    other = await kept.put(b"same", JPEG)
    assert names(tmp_path) == {first.name, other.name}


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "application/octet-stream", "image/gif", ""])
async def test_only_pictures_are_kept(tmp_path: Path, time: Time, content_type: str) -> None:
    """Nothing that a browser could run is ever served."""
    with pytest.raises(ValueError, match="is not kept"):
        await artifacts(tmp_path, time).put(b"<script>", content_type)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../store.sqlite",
        "a" * 64,
        "a" * 64 + ".html",
        "A" * 64 + ".png",
        "a" * 63 + ".png",
        "/etc/passwd",
        "a" * 64 + ".png\n",
        "a" * 64 + ".png/..",
        "." + "a" * 31 + ".part",
        "b" * 64 + ".png",
    ],
)
async def test_no_other_name_is_opened(tmp_path: Path, time: Time, name: str) -> None:
    """Names are hashes; everything else, and a hash that is not there, is 404."""
    kept = artifacts(tmp_path, time)
    await kept.put(b"pixels", PNG)
    (tmp_path / "store.sqlite").write_text("secret")
    with pytest.raises(RequestRejected) as rejected:
        kept.open(name)
    assert rejected.value.error.status == 404


async def test_a_link_in_the_folder_is_not_followed(tmp_path: Path, time: Time) -> None:
    """A name that somebody made a link of is no artifact."""
    kept = artifacts(tmp_path, time)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "secret").write_text("secret")
    name = "c" * 64 + ".png"
    (tmp_path / "artifacts" / name).symlink_to(tmp_path / "secret")
    with pytest.raises(RequestRejected):
        kept.open(name)


async def test_age_counts_from_the_last_use(tmp_path: Path, time: Time) -> None:
    """Unused for longer than the limit it goes; one that was read or made again stays."""
    kept = artifacts(tmp_path, time)
    old, read, made = [await kept.put(content, PNG) for content in (b"old", b"read", b"made")]
    time.now += 20 * DAY
    kept.open(read.name)
    await kept.put(b"made", PNG)
    time.now += 20 * DAY
    assert await kept.prune(time()) == 1
    assert names(tmp_path) == {read.name, made.name}
    with pytest.raises(RequestRejected, match="limited time"):
        kept.open(old.name)


async def test_the_least_recently_used_make_room(tmp_path: Path, time: Time) -> None:
    """Above the size limit the oldest uses go, no more of them than needed."""
    kept = artifacts(tmp_path, time, max_mib=1)
    made = []
    for number in range(5):
        time.now += 1
        made.append(await kept.put(bytes([number]) * 300 * KIB, PNG))
    time.now += 1
    kept.open(made[2].name)
    await kept.prune(time())
    assert names(tmp_path) == {made[2].name, made[3].name, made[4].name}


async def test_writing_alone_keeps_the_limit(tmp_path: Path, time: Time) -> None:
    """Between two prunings by the clock the folder never grows by more than a tenth and a file."""
    kept = artifacts(tmp_path, time, max_mib=1)
    for number in range(100):
        time.now += 1
        await kept.put(number.to_bytes(2, "big") * 32 * KIB, PNG)
        held = sum(path.stat().st_size for path in (tmp_path / "artifacts").iterdir())
        assert held <= 1.1 * 1024 * KIB + 64 * KIB


async def test_a_use_during_pruning_saves_a_file(tmp_path: Path, time: Time) -> None:
    """Whoever was given a name while files are removed finds its file, as long as it is among the last used."""
    kept = artifacts(tmp_path, time, max_mib=1)

    async def put_and_read(number: int) -> None:
        time.now += 0.001
        content = number.to_bytes(2, "big") * 10 * KIB
        artifact = await kept.put(content, PNG)
        assert (await kept.read(artifact.name))[0] == content

    async def prune() -> None:
        await kept.prune(time())

    for start in range(0, 160, 8):
        await asyncio.gather(*(put_and_read(start + number) for number in range(8)), prune(), prune())


async def test_what_a_crash_left_half_written_is_removed(tmp_path: Path, time: Time) -> None:
    """After an hour; one that may still be written stays."""
    kept = artifacts(tmp_path, time)
    await kept.put(b"pixels", PNG)
    left, fresh = (tmp_path / "artifacts" / f".{letter * 32}.part" for letter in "ab")
    for path, age in ((left, 2 * HOUR), (fresh, 0)):
        path.write_bytes(b"pix")
        os.utime(path, (time() - age, time() - age))
    assert await kept.prune(time()) == 1
    assert not left.exists()
    assert fresh.exists()


async def test_strangers_files_are_left_alone(tmp_path: Path, time: Time) -> None:
    """What does not bear one of our names is never removed, however old."""
    kept = artifacts(tmp_path, time)
    await kept.put(b"pixels", PNG)
    readme = tmp_path / "artifacts" / "README.md"
    readme.write_text("mine")
    os.utime(readme, (0, 0))
    time.now += 1000 * DAY
    assert await kept.prune(time()) == 1
    assert names(tmp_path) == {"README.md"}


async def test_pruning_before_the_first_result_does_nothing(tmp_path: Path, time: Time) -> None:
    """There is no folder yet."""
    assert await artifacts(tmp_path, time).prune(time()) == 0


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, time: Time) -> None:
    """The failure says which setting to look at, and leaves nothing behind."""
    (tmp_path / "artifacts").write_text("a file stands there")
    with pytest.raises(StoreFailure, match=r"artifacts\.dir"):
        await artifacts(tmp_path, time).put(b"pixels", PNG)


async def test_more_than_the_folder_may_hold_is_refused(tmp_path: Path, time: Time) -> None:
    """It would be pruned at once."""
    with pytest.raises(StoreFailure, match="max_gib"):
        await artifacts(tmp_path, time, max_mib=1).put(bytes(1024 * KIB + 1), PNG)


async def test_a_full_disk_leaves_no_piece(tmp_path: Path, time: Time) -> None:
    """Writing that fails half way raises, and no part of the file stays."""
    child = f"""
import asyncio, resource, signal
from datetime import timedelta
from pathlib import Path
from controlplane.errors import StoreFailure
from controlplane.media.artifacts import ArtifactLimits, Artifacts
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
kept = Artifacts(Path({str(tmp_path / "artifacts")!r}), ArtifactLimits(1, timedelta(days=1)), lambda: 1e9)
try:
    asyncio.run(kept.put(bytes(5000), "image/png"))
except StoreFailure as exc:
    print(exc)
"""
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", child], capture_output=True, text=True, check=True, timeout=60
    )
    assert "cannot keep results" in ended.stdout
    assert names(tmp_path) == set()
    assert (await artifacts(tmp_path, time).put(bytes(5000), PNG)).size_bytes == 5000


async def test_what_is_held_outlives_every_limit(tmp_path: Path, time: Time) -> None:
    """Too old and too much, it stays until nobody holds it any more, also when another life holds it."""
    kept = artifacts(tmp_path, time)
    first = await kept.put_for("a", bytes(700 * KIB), PNG)
    await kept.put_for("b", bytes(700 * KIB), PNG)
    time.now += 40 * DAY
    await kept.put(b"x" * 700 * KIB, PNG)
    await kept.prune(time.now)
    assert first.name in names(tmp_path)

    kept.let_go("a")
    await kept.prune(time.now)
    assert first.name in names(tmp_path)
    again = artifacts(tmp_path, time)
    again.hold("b", first.name)
    await again.prune(time.now)
    assert first.name in names(tmp_path)

    again.let_go("b")
    await again.prune(time.now + HOUR)
    assert first.name not in names(tmp_path)


async def test_what_could_not_be_kept_is_not_held(tmp_path: Path, time: Time) -> None:
    """A picture larger than the whole room is refused, and its name is as free as before."""
    kept = artifacts(tmp_path, time)
    with pytest.raises(StoreFailure):
        await kept.put_for("a", bytes(2000 * KIB), PNG)
    small = await kept.put_for("a", b"x", PNG)
    kept.let_go("a")
    time.now += 40 * DAY
    await kept.prune(time.now)
    assert small.name not in names(tmp_path)
