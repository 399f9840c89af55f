"""Host memory: the machine's or its control group's, whichever is smaller; control groups are files of the test."""

from pathlib import Path

import psutil
import pytest

from controlplane.runtime.devices_host import HostMemory

_MIB = 1024 * 1024
UNLIMITED_V1 = "9223372036854771712"


def write(root: Path, path: str, text: str | int) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{text}\n")


def v1(root: Path, group: str, limit: int | str, usage: int, cached: int = 0) -> None:
    folder = f"sys/fs/cgroup/memory{group}"
    write(root, f"{folder}/memory.limit_in_bytes", limit)
    write(root, f"{folder}/memory.usage_in_bytes", usage)
    write(root, f"{folder}/memory.stat", f"cache 5\ntotal_inactive_file {cached}")


def v2(root: Path, group: str, limit: int | str, usage: int, cached: int = 0) -> None:
    folder = f"sys/fs/cgroup{group}"
    write(root, f"{folder}/memory.max", limit)
    write(root, f"{folder}/memory.current", usage)
    write(root, f"{folder}/memory.stat", f"anon 5\ninactive_file {cached}")


async def figures(root: Path) -> tuple[int, int | None]:
    [reading] = await HostMemory(root).read()
    assert (reading.device_id, reading.kind, reading.index) == ("host", "host", 0)
    return reading.total_mib, reading.used_mib


async def test_without_control_groups_it_is_the_machines_memory(tmp_path: Path) -> None:
    """A host that has none of these files is measured as the kernel tells it."""
    total, used = await figures(tmp_path)
    assert total == psutil.virtual_memory().total // _MIB
    assert used is not None
    assert 0 < used < total


@pytest.mark.parametrize("version", [v1, v2])
async def test_a_smaller_limit_is_the_size(tmp_path: Path, version: object) -> None:
    """A limit makes the device; page cache that can be dropped counts as free."""
    make = v1 if version is v1 else v2
    write(tmp_path, "proc/self/cgroup", "4:memory:/im\n0::/im" if version is v1 else "0::/im")
    make(tmp_path, "/im", 100 * _MIB, 60 * _MIB, 20 * _MIB)
    assert await figures(tmp_path) == (100, 40)


async def test_the_tightest_of_nested_limits_binds(tmp_path: Path) -> None:
    """Size and use each follow the level that leaves the least."""
    write(tmp_path, "proc/self/cgroup", "0::/slice/im")
    v2(tmp_path, "/slice/im", 100 * _MIB, 10 * _MIB)
    v2(tmp_path, "/slice", 200 * _MIB, 190 * _MIB)
    assert await figures(tmp_path) == (100, 90)


async def test_a_path_of_the_hosts_falls_back_to_the_mount(tmp_path: Path) -> None:
    """In a container the path may name the host's group; the mount is ours then."""
    write(tmp_path, "proc/self/cgroup", "4:memory:/docker/abc")
    v1(tmp_path, "", 100 * _MIB, 30 * _MIB)
    assert await figures(tmp_path) == (100, 30)


@pytest.mark.parametrize("limit", ["max", ""])
async def test_no_limit_is_no_limit(tmp_path: Path, limit: str) -> None:
    """Unlimited groups of the second version, and unreadable ones, leave the machine's memory."""
    write(tmp_path, "proc/self/cgroup", "0::/im")
    v2(tmp_path, "/im", limit, 60 * _MIB)
    assert (await figures(tmp_path))[0] == psutil.virtual_memory().total // _MIB


async def test_no_limit_of_the_first_version_is_none_either(tmp_path: Path) -> None:
    """The first version writes an enormous number for unlimited."""
    write(tmp_path, "proc/self/cgroup", "4:memory:/")
    v1(tmp_path, "", UNLIMITED_V1, 60 * _MIB)
    assert (await figures(tmp_path))[0] == psutil.virtual_memory().total // _MIB


async def test_overuse_is_all_used(tmp_path: Path) -> None:
    """Use beyond the limit, which swapping allows, reads as full, never as more than the device."""
    write(tmp_path, "proc/self/cgroup", "0::/im")
    v2(tmp_path, "/im", 100 * _MIB, 150 * _MIB)
    assert await figures(tmp_path) == (100, 100)
