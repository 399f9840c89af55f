"""Replicas found again: by the next control plane, without their leader, and beside strangers with their pid."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from controlplane.ports import RunningReplica
from controlplane.runtime.process import ProcessRuntime
from controlplane.runtime.process_tree import start_time
from tests.contract.runtime_worlds import ProcessWorld

DOOMED = Path(__file__).with_name("doomed_control_plane.py")
GRACE_SECONDS = 20


def silent(_: str) -> None:
    """Progress that nobody reads."""


async def start_and_be_killed(world: ProcessWorld) -> None:
    """A control plane of its own process starts llm-0 in generation 4 and gets SIGKILL."""
    argv = [DOOMED, world.state_dir / "one", world.store_id(), world.desk.path]
    plane = await asyncio.create_subprocess_exec(sys.executable, *argv, stdout=asyncio.subprocess.PIPE)
    assert plane.stdout is not None
    assert await plane.stdout.readline() == b"started\n"
    plane.kill()
    await plane.wait()


@asynccontextmanager
async def stranger() -> AsyncIterator[int]:
    """The pid of a living process that is none of ours."""
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    try:
        yield process.pid
        assert process.poll() is None, "a stranger was touched"
    finally:
        process.kill()
        process.wait()


def record_of(world: ProcessWorld, replica_id: str) -> Path:
    return world.state_dir / "one" / "run" / f"{replica_id}.json"


def forge(record: Path, pid: int, started: int | None) -> None:
    record.write_text(json.dumps({"pid": pid, "started": started, "generation": 1}))


async def only(runtime: ProcessRuntime) -> RunningReplica:
    [replica] = await runtime.running()
    return replica


async def test_a_replica_survives_the_killed_control_plane(world: ProcessWorld) -> None:
    """The next control plane lists it as it was, and is told of its end, whose exit code nobody can know."""
    await start_and_be_killed(world)
    engine = await world.desk.visitor("llm-0")
    runtime, exits = world.runtime()
    replica = await only(runtime)
    assert (replica.replica_id, replica.generation, replica.config_hash) == ("llm-0", 4, "hash-4")
    assert replica.handle == f"pid {engine.pid}"
    await engine.do("say last words")
    engine.order("exit 3")
    report = await exits.next()
    assert (report.replica_id, report.generation, report.code) == ("llm-0", 4, None)
    assert "exit code is unknown" in report.reason
    assert "last words" in report.reason


async def test_a_replica_of_a_killed_control_plane_can_be_stopped(world: ProcessWorld) -> None:
    """An adopted tree is stopped with the same proof as one of our own, and leaves no files but its log."""
    await start_and_be_killed(world)
    engine = await world.desk.visitor("llm-0")
    await engine.do("child setsid")
    runtime, exits = world.runtime()
    await runtime.running()
    await runtime.stop("llm-0", GRACE_SECONDS)
    assert world.processes("llm-0") == []
    assert exits.none()
    left = {path.name for path in (world.state_dir / "one").rglob("*") if path.is_file() or path.is_socket()}
    assert left == {"llm-0.log"}


async def test_a_tree_without_its_leader_is_listed_reported_and_stopped(world: ProcessWorld) -> None:
    """What a dead leader left is found by the next control plane, reported once as ended, and can be swept."""
    first, _ = world.runtime()
    await first.start(world.order("llm-0"), silent)
    engine = await world.desk.visitor("llm-0")
    await engine.do("child plain")
    child = await world.desk.visitor("llm-0", "sleep")
    await first.close()
    engine.order("exit 1")
    await engine.gone()
    runtime, exits = world.runtime()
    assert (await only(runtime)).handle == "main process gone"
    assert (await exits.next()).replica_id == "llm-0"
    await runtime.running()
    await runtime.stop("llm-0", GRACE_SECONDS)
    await child.gone()
    assert exits.none()


async def test_a_start_sweeps_what_its_own_generation_left(world: ProcessWorld) -> None:
    """Remains of a generation without a leader do not pass for a running replica: start removes them first."""
    runtime, exits = world.runtime()
    await runtime.start(world.order("llm-0"), silent)
    engine = await world.desk.visitor("llm-0")
    await engine.do("child setsid")
    child = await world.desk.visitor("llm-0", "sleep")
    engine.order("exit 1")
    await exits.next()
    await runtime.start(world.order("llm-0"), silent)
    await child.gone()
    again = await world.desk.visitor("llm-0")
    assert world.processes("llm-0") == [again.pid]


async def test_a_recycled_pid_is_not_mistaken(world: ProcessWorld) -> None:
    """A record whose pid now belongs to a stranger names no leader: the stranger is neither listed nor killed."""
    first, _ = world.runtime()
    await first.start(world.order("llm-0"), silent)
    engine = await world.desk.visitor("llm-0")
    await first.close()
    engine.order("exit 1")
    await engine.gone()
    async with stranger() as pid:
        forge(record_of(world, "llm-0"), pid, start_time(pid))
        runtime, _ = world.runtime()
        assert list(await runtime.running()) == []
        await runtime.stop("llm-0", 0)


async def test_a_labelled_process_with_another_start_time_is_no_leader(world: ProcessWorld) -> None:
    """Pid and label are not enough: the start time must match as well."""
    first, _ = world.runtime()
    await first.start(world.order("llm-0"), silent)
    engine = await world.desk.visitor("llm-0")
    await first.close()
    started = start_time(engine.pid)
    assert started is not None
    forge(record_of(world, "llm-0"), engine.pid, started - 1)
    runtime, exits = world.runtime()
    assert (await only(runtime)).handle == "main process gone"
    assert (await exits.next()).code is None


async def test_a_damaged_record_is_no_leader(world: ProcessWorld) -> None:
    """A record that cannot be read costs an adoption, never the control plane; the tree can still be stopped."""
    first, _ = world.runtime()
    await first.start(world.order("llm-0"), silent)
    engine = await world.desk.visitor("llm-0")
    await first.close()
    record_of(world, "llm-0").write_text('{"pid": ')
    runtime, _ = world.runtime()
    assert (await only(runtime)).handle == "main process gone"
    await runtime.stop("llm-0", GRACE_SECONDS)
    await engine.gone()
