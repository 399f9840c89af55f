"""Results on disk stay within their limits by the running service's own care."""

import os
from pathlib import Path

from service import Service, model

OLD, NEW, UNFINISHED = "a" * 64 + ".png", "b" * 64 + ".png", "." + "c" * 32 + ".part"
_DAY_SECONDS = 86400


async def test_a_start_removes_what_is_too_old(tmp_path: Path) -> None:
    """A result unused for longer than `artifacts.max_age_days` goes, and what a crash left; a recent one stays."""
    service = Service(tmp_path)
    service.write(model("a"), artifacts={"dir": "results", "max_age_days": 2})
    results = tmp_path / "results"
    results.mkdir()
    for name, age_days in ((OLD, 3), (NEW, 1), (UNFINISHED, 1)):
        (results / name).write_bytes(b"pixels")
        at = (results / name).stat().st_mtime - age_days * _DAY_SECONDS
        os.utime(results / name, (at, at))
    await service.start()
    try:
        assert (await service.logged("artifacts.pruned"))["removed"] == 2
        assert [path.name for path in results.iterdir()] == [NEW]
    finally:
        await service.end()
