"""A replica's log: bounded whatever the engine writes, and read across rotations but not across runs."""

import asyncio
import os
from pathlib import Path

from controlplane.runtime.process_log import LogLimits, ReplicaLog
from tests.contract.runtime_worlds import ProcessWorld

LIMITS = LogLimits(max_bytes=1000, keep=2)


def silent(_: str) -> None:
    """Progress that nobody reads."""


def write(log: int, *lines: str) -> None:
    os.write(log, "".join(f"{line}\n" for line in lines).encode())


def numbered(first: int, last: int) -> list[str]:
    return [f"line {number}" for number in range(first, last + 1)]


def test_a_small_log_is_left_alone(tmp_path: Path) -> None:
    """Below its limit nothing is moved."""
    log = ReplicaLog(tmp_path / "a.log", LIMITS)
    run = log.open_new_run()
    write(run, "one")
    log.rotate_if_large()
    assert [path.name for path in tmp_path.iterdir()] == ["a.log"]
    os.close(run)


def test_the_tail_goes_on_across_rotations(tmp_path: Path) -> None:
    """A rotation between two lines hides neither; the writer's descriptor goes on at the start of the file."""
    log = ReplicaLog(tmp_path / "a.log", LIMITS)
    run = log.open_new_run()
    write(run, *numbered(1, 200))
    log.rotate_if_large()
    assert (tmp_path / "a.log").stat().st_size == 0
    write(run, *numbered(201, 210))
    assert (tmp_path / "a.log").read_bytes().startswith(b"line 201\n")
    assert log.tail(20) == numbered(191, 210)
    os.close(run)


def test_all_parts_together_are_bounded(tmp_path: Path) -> None:
    """However far a file grew beyond the limit before we looked, each kept part is within it."""
    log = ReplicaLog(tmp_path / "a.log", LIMITS)
    run = log.open_new_run()
    for _ in range(5):
        write(run, *["x" * 99] * 100)
        log.rotate_if_large()
    parts = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert parts == {"a.log": 0, "a.log.1": 1000, "a.log.2": 1000}
    os.close(run)


def test_a_new_run_starts_afresh_and_keeps_the_last(tmp_path: Path) -> None:
    """The tail never mixes runs; the end of the run before stays beside it for people."""
    log = ReplicaLog(tmp_path / "a.log", LIMITS)
    for word in ("first", "second", "third"):
        run = log.open_new_run()
        write(run, *[word] * 200)
        log.rotate_if_large()
        write(run, f"{word} ends")
        os.close(run)
        assert set(log.tail(10)) == {word, f"{word} ends"}
    assert (tmp_path / "a.log.previous").read_text() == "second ends\n"
    assert set((tmp_path / "a.log.1").read_text().split()[1:]) == {"third"}


def test_without_older_parts_the_log_is_only_truncated(tmp_path: Path) -> None:
    """keep=0 keeps none."""
    log = ReplicaLog(tmp_path / "a.log", LogLimits(max_bytes=10, keep=0))
    run = log.open_new_run()
    write(run, "x" * 100)
    log.rotate_if_large()
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("a.log", 0)]
    os.close(run)


def test_a_missing_log_is_no_error(tmp_path: Path) -> None:
    """Somebody may tidy the folder while an engine runs."""
    log = ReplicaLog(tmp_path / "a.log", LIMITS)
    log.rotate_if_large()
    assert log.tail(5) == []


def test_what_is_no_text_is_read_all_the_same(tmp_path: Path) -> None:
    """Broken UTF-8, progress bars redrawn in place, blank lines and endless lines give readable lines."""
    (tmp_path / "a.log").write_bytes(b"\xff\xfe\n\n10%\r50%\r100%\r\n" + b"y" * 5000)
    lines = ReplicaLog(tmp_path / "a.log", LIMITS).tail(5)
    assert lines == ["\ufffd\ufffd", "100%", "y" * 2000]


async def test_a_chatty_engine_stays_bounded(world: ProcessWorld) -> None:
    """The runtime rotates while the engine writes, and the engine's newest words are still found."""
    runtime, _ = world.runtime()
    await runtime.start(world.order("llm-0"), silent)
    engine = await world.desk.visitor("llm-0")
    logs = world.state_dir / "one" / "logs"
    async with asyncio.timeout(60):
        while not (logs / "llm-0.log.2").exists():
            await engine.do("chatter 1")
        # What is written while a rotation copies may be lost; below the limit none begins.
        while (logs / "llm-0.log").stat().st_size > 256 * 1024:
            await runtime.log_tail("llm-0", 1)
    await engine.do("say newest words")
    assert (await runtime.log_tail("llm-0", 1))[-1] == "newest words"
    assert (logs / "llm-0.log.1").stat().st_size <= 256 * 1024
    assert sorted(path.name for path in logs.iterdir()) == ["llm-0.log", "llm-0.log.1", "llm-0.log.2"]
