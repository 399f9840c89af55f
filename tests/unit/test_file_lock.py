"""The lock between processes, as far as nobody waits for it."""

from pathlib import Path

from controlplane.runtime.file_lock import file_lock, lock_if_free


async def test_a_lock_is_taken_only_if_it_is_free(tmp_path: Path) -> None:
    """While somebody holds it nobody else gets it; afterwards they do, one at a time."""
    path = tmp_path / "lock"
    async with file_lock(path, lambda _: None):
        with lock_if_free(path) as free:
            assert not free
    with lock_if_free(path) as free, lock_if_free(path) as again:
        assert (free, again) == (True, False)
    with lock_if_free(path) as free:
        assert free
