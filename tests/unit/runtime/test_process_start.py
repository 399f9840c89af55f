"""Starting real processes: what they are given, how failures read, and that a start broken off leaves nothing."""

import asyncio
import errno
import os
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from adapters.base import Launch
from adapters.endpoint import Endpoint
from controlplane.errors import RuntimeFailure
from controlplane.ports import ReplicaExit, ReplicaOrder
from controlplane.runtime.process import ProcessRuntime
from tests.contract.runtime_worlds import Exits, ProcessWorld


def silent(_: str) -> None:
    """Progress that nobody reads."""


def order_for(argv: tuple[str, ...], env: Mapping[str, str] | None = None, listen: str = "unix") -> ReplicaOrder:
    assert listen in ("unix", "tcp")
    launch = Launch(None, argv, env or {}, "unix" if listen == "unix" else "tcp", 30, 30)
    return ReplicaOrder("llm-0", 1, "hash", launch)


def python(code: str, *arguments: str, env: Mapping[str, str] | None = None, listen: str = "unix") -> ReplicaOrder:
    return order_for(("{python}", "-c", code, *arguments), env, listen)


async def run_to_its_end(world: ProcessWorld, order: ReplicaOrder) -> tuple[Endpoint, ReplicaExit]:
    runtime, exits = world.runtime()
    replica = await runtime.start(order, silent)
    return replica.endpoint, await exits.next()


def files_left(world: ProcessWorld) -> set[str]:
    return {path.name for path in world.state_dir.rglob("*") if path.suffix in (".json", ".sock", ".d", ".draft")}


async def test_tokens_become_values_and_other_braces_stay(world: ProcessWorld) -> None:
    """{python} and {uds} are replaced in arguments and variables, once and literally; JSON survives."""
    code = "import os, sys; print(*sys.argv[1:], os.environ['PLACE'])"
    order = python(code, "{uds}", '{"port": {}}', "{other}", env={"PLACE": "at {uds}"})
    endpoint, report = await run_to_its_end(world, order)
    assert f'{endpoint.uds} {{"port": {{}}}} {{other}} at {endpoint.uds}' in report.reason


async def test_extras_are_named_by_their_place_in_the_environment(world: ProcessWorld) -> None:
    """{extras:NAME} is the folder of those packages beside the interpreter, in variables too."""
    code = "import os, sys; print(*sys.argv[1:], os.environ['PLACE'])"
    order = python(code, "{extras:vision}", "{extras:}", env={"PLACE": "{extras:a}:{extras:b.c}"})
    _, report = await run_to_its_end(world, order)
    beside = Path(sys.executable).parent.parent / "extras"
    assert f"{beside}/vision {{extras:}} {beside}/a:{beside}/b.c" in report.reason


async def test_tcp_engines_get_a_free_port_of_their_own(world: ProcessWorld) -> None:
    """Replicas that listen on TCP get different loopback ports, which they can bind."""
    code = "import socket, sys; socket.create_server((sys.argv[1], int(sys.argv[2]))); print('bound', sys.argv[2])"
    runtime, exits = world.runtime()
    orders = [replace(python(code, "{host}", "{port}", listen="tcp"), replica_id=f"llm-{n}") for n in range(8)]
    replicas = await asyncio.gather(*(runtime.start(order, silent) for order in orders))
    reports = [await exits.next() for _ in orders]
    ports = {replica.endpoint.port for replica in replicas}
    assert len(ports) == len(orders)
    assert {replica.endpoint.host for replica in replicas} == {"127.0.0.1"}
    assert {int(report.reason.rsplit(" ", 1)[1]) for report in reports} == ports


async def test_a_taken_port_is_named_as_the_cause(world: ProcessWorld) -> None:
    """When somebody binds the port first, the exit says so instead of a bare code."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code = f"import socket; socket.create_server(('127.0.0.1', {taken.getsockname()[1]}))"
        _, report = await run_to_its_end(world, python(code, listen="tcp"))
    assert "another process took its address first" in report.reason
    assert report.code == 1


async def test_the_next_start_picks_another_port(world: ProcessWorld) -> None:
    """A port that turned out taken is not handed out again while somebody holds it."""
    runtime, exits = world.runtime()
    first = await runtime.start(python("", listen="tcp"), silent)
    await exits.next()
    assert first.endpoint.port is not None
    with socket.create_server(("127.0.0.1", first.endpoint.port)):
        second = await runtime.start(replace(python("", listen="tcp"), generation=2), silent)
    assert second.endpoint.port != first.endpoint.port


async def test_a_launch_that_names_what_it_has_not_is_refused(world: ProcessWorld) -> None:
    """{port} of an engine on a unix socket is a mistake in its adapter, not a literal."""
    runtime, _ = world.runtime()
    with pytest.raises(
        RuntimeFailure, match=r"cannot start replica llm-0: its launch uses \{port\}, but it listens on"
    ):
        await runtime.start(python("", "{port}"), silent)


async def test_engines_run_apart(world: ProcessWorld) -> None:
    """An engine has its own session, an empty standard input, and an empty working directory of its own."""
    code = "import os, sys; print(os.getsid(0) == os.getpid(), repr(sys.stdin.read()), os.listdir(), os.getcwd())"
    _, report = await run_to_its_end(world, python(code))
    assert f"True '' [] {world.state_dir / 'one' / 'work' / 'llm-0.d'}" in report.reason


async def test_temporary_files_go_with_their_engine(world: ProcessWorld) -> None:
    """What an engine leaves in its temporary folder, a private one of its own, is gone after the stop."""
    code = "import os, tempfile; file = tempfile.mkstemp()[1]; print(oct(os.stat(os.path.dirname(file)).st_mode), file)"
    runtime, exits = world.runtime()
    await runtime.start(python(code), silent)
    mode, file = (await exits.next()).reason.rsplit(maxsplit=2)[-2:]
    assert mode == "0o40700"
    assert Path(file).exists()
    await runtime.stop("llm-0", 0)
    assert not Path(file).parent.exists()


async def test_labels_win_over_the_launchs_variables(world: ProcessWorld) -> None:
    """No launch can make its processes look like another replica's, or hide them."""
    env = {"IM_REPLICA": "other-0", "IM_STORE": "other", "SPT_NOENV": ""}
    code = "import os; print(os.environ['IM_REPLICA'], os.environ['IM_STORE'], os.environ['SPT_NOENV'])"
    _, report = await run_to_its_end(world, python(code, env=env))
    assert f"llm-0 {world.store_id()} 1" in report.reason


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (order_for(("/nonesuch/engine",)), "/nonesuch/engine: No such file or directory"),
        (order_for(("/etc/passwd",)), "/etc/passwd: Permission denied"),
        (order_for(("{python}", "a\0b")), "its command line or environment is not valid: embedded null byte"),
        (order_for(("{python}",), {"A=B": "c"}), "its command line or environment is not valid: illegal environment"),
        (order_for(("{python}", "x" * 3_000_000)), "Argument list too long"),
    ],
    ids=["missing", "not executable", "null byte", "bad variable", "too long"],
)
async def test_a_program_that_cannot_run_is_a_clear_failure(
    world: ProcessWorld, order: ReplicaOrder, words: str
) -> None:
    """Whatever exec refuses is a RuntimeFailure that names replica and cause, and leaves no file but the log."""
    runtime, exits = world.runtime()
    with pytest.raises(RuntimeFailure) as caught:
        await runtime.start(order, silent)
    assert str(caught.value).startswith("cannot start replica llm-0: ")
    assert words in str(caught.value)
    assert files_left(world) == set()
    assert exits.none()


async def test_an_unusable_state_directory_is_a_clear_failure(world: ProcessWorld) -> None:
    """A state directory that cannot be written to fails the start, with its path."""
    (world.state_dir / "one").write_text("not a directory")
    runtime, _ = world.runtime()
    with pytest.raises(RuntimeFailure, match=f"cannot start replica llm-0: {world.state_dir}/one.*Not a directory"):
        await runtime.start(python(""), silent)


async def test_long_state_directories_still_get_a_socket(world: ProcessWorld) -> None:
    """Where the path under run/ is too long for the kernel, a short private directory serves, always the same."""
    world.state_dir = world.state_dir / ("d" * 100)
    code = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); print('bound')"
    endpoint, report = await run_to_its_end(world, python(code, "{uds}"))
    assert "bound" in report.reason
    assert endpoint.uds is not None
    place = Path(endpoint.uds)
    assert place.is_relative_to(tempfile.gettempdir())
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    runtime, exits = world.runtime()
    assert (await runtime.start(replace(python(""), generation=2), silent)).endpoint == endpoint
    await exits.next()
    await runtime.stop("llm-0", 0)
    assert not place.exists()
    place.parent.rmdir()


class Gate(Mapping[str, str]):
    """A base environment that is read only when the test lets it: it holds a launch just before its process starts."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __getitem__(self, name: str) -> str:
        return os.environ[name]

    def __len__(self) -> int:
        return len(os.environ)

    def __iter__(self) -> Iterator[str]:
        self.reached.set()
        assert self.opened.wait(30)
        return iter(os.environ)


async def held_launch(world: ProcessWorld) -> tuple[ProcessRuntime, Exits, Gate, "asyncio.Task[object]"]:
    """A start whose thread is about to make the process."""
    gate, exits = Gate(), Exits()
    settings = replace(world.settings(), base_env=gate)
    runtime = ProcessRuntime(settings, world.interpreters, world.devices, exits)
    starting: asyncio.Task[object] = asyncio.create_task(runtime.start(world.order("llm-0"), silent))
    await asyncio.to_thread(gate.reached.wait, 30)
    return runtime, exits, gate, starting


def nothing_left(world: ProcessWorld) -> bool:
    zombies = [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE]
    return world.processes("llm-0") == [] and files_left(world) == set() and zombies == []


async def test_a_start_cancelled_in_its_last_moment_leaves_nothing(world: ProcessWorld) -> None:
    """A thread cannot be cancelled: the process it makes after the cancellation is ended before start returns."""
    runtime, exits, gate, starting = await held_launch(world)
    starting.cancel()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert nothing_left(world)
    await runtime.close()
    assert exits.none()


async def test_a_start_stopped_in_its_last_moment_leaves_nothing(world: ProcessWorld) -> None:
    """A stop that comes while the process is being made waits for it and ends it."""
    runtime, exits, gate, starting = await held_launch(world)
    stopping = asyncio.create_task(runtime.stop("llm-0", 0))
    gate.opened.set()
    await stopping
    with pytest.raises(RuntimeFailure, match="stopped while it started"):
        await starting
    assert nothing_left(world)
    await runtime.close()
    assert exits.none()


async def test_closing_in_the_middle_of_a_start_leaves_nothing(world: ProcessWorld) -> None:
    """A control plane that closes takes its half-done starts back."""
    runtime, _, gate, starting = await held_launch(world)
    closing = asyncio.create_task(runtime.close())
    gate.opened.set()
    await closing
    with pytest.raises(RuntimeFailure, match="stopped while it started"):
        await starting
    assert nothing_left(world)


async def test_a_process_whose_record_cannot_be_written_is_taken_back(world: ProcessWorld) -> None:
    """Without its record a replica could not be adopted: the start fails and its process is killed."""
    runtime, _ = world.runtime()
    (world.state_dir / "one" / "run" / "llm-0.json.draft").mkdir(parents=True)
    with pytest.raises(RuntimeFailure, match=os.strerror(errno.EISDIR)):
        await runtime.start(world.order("llm-0"), silent)
    assert world.processes("llm-0") == []
