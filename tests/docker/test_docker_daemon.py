"""The Docker engine itself goes away, comes back, or has no room: the service outlives it and tells what is the matter.

On an engine of the test's own, so that nobody else's containers are in danger.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import openai
import pytest

from tests.docker.container_service import ContainerService, Serve
from tests.docker.gates import Gate
from tests.docker.own_engine import OwnEngine, own_engine
from tests.integration.chats import ask, begin, later
from tests.integration.service import model, until

# The SDK drops the connections that its engine has closed without closing its own end.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SLOW = {"tokens_per_second": 20}
IMPATIENT = {"backoff_initial_seconds": 0.2, "backoff_max_seconds": 1, "resync_seconds": 0.5}
BACK_SECONDS = 90.0


@pytest.fixture(scope="module")
def engine(docker_socket: Path) -> Iterator[OwnEngine]:
    with own_engine() as made:
        yield made


@pytest.fixture
async def serve_on(engine: OwnEngine, serve: Serve, tmp_path: Path) -> AsyncIterator[Serve]:
    """As `serve`, on the engine of our own and behind a gate of its own."""
    gate = Gate(engine.socket, tmp_path / "gate.sock", tmp_path)
    gate.start()
    client = docker.DockerClient(base_url=f"unix://{engine.socket}", version="auto")
    services: list[ContainerService] = []

    async def start(*models: dict[str, Any], **keys: Any) -> ContainerService:
        services.append(await serve(*models, address=gate.address, client=client, **keys))
        return services[-1]

    yield start
    for service in services:
        await service.end()
    client.close()
    gate.stop()


async def _answers(service: ContainerService, prompt: str) -> None:
    async def answered() -> bool:
        try:
            return prompt in await ask(service.openai(), "a", prompt)
        except openai.APIError:
            return False

    await until(answered, BACK_SECONDS)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_restart_of_the_engine_is_survived(engine: OwnEngine, serve_on: Serve, how: str) -> None:
    """Stopped or killed, it takes the containers with it; once it is back the model is served from a new one."""
    service = await serve_on(model("a", script=SLOW), scheduling=IMPATIENT)
    doomed = await begin(service.openai(), "a", "one", 5000)
    (before,) = service.containers()

    engine.stop() if how == "stop" else engine.kill()
    engine.start()
    with pytest.raises(openai.APIError):
        await doomed.rest()

    await _answers(service, "back")
    assert [one.id != before.id for one in service.containers()] == [True]
    assert service.process is not None
    assert service.process.poll() is None


async def test_a_call_waits_for_an_engine_that_is_away(engine: OwnEngine, serve_on: Serve) -> None:
    """A cold model cannot start meanwhile, and its replica says why; once the engine is back the call is answered."""
    service = await serve_on(model("a"), scheduling=IMPATIENT)
    client = service.openai(timeout=BACK_SECONDS)
    engine.stop()
    try:
        call = later(ask(client, "a", "patient"))

        async def told() -> bool:
            return "Docker engine does not answer" in str(await service.replica("a-0"))

        await until(told)
    finally:
        engine.start()

    assert "patient" in await call


async def test_containers_that_outlive_the_engine_are_kept(engine: OwnEngine, serve_on: Serve) -> None:
    """With live restore: answers go on while it is away, nothing is reloaded, and later ends are still heard of."""
    engine.stop()
    engine.start("--live-restore")
    service = await serve_on(model("a", script=SLOW), scheduling=IMPATIENT)
    await ask(service.openai(), "a", "x")
    (before,) = service.containers()

    engine.stop()
    assert "meanwhile" in await ask(service.openai(), "a", "meanwhile")
    engine.start("--live-restore")

    assert "after" in await ask(service.openai(), "a", "after")
    (after,) = service.containers()
    assert (after.id, (await service.replica("a-0"))["generation"]) == (before.id, 1)
    after.kill()

    async def reborn() -> bool:
        view = await service.replica("a-0")
        return view["state"] == "ready" and view["generation"] > 1

    await until(reborn, BACK_SECONDS)
    await service.end()
    engine.stop()
    engine.start()


async def test_a_full_disk_is_told_and_stops_nobody_who_runs(engine: OwnEngine, serve_on: Serve) -> None:
    """Without a byte for logs the engine answers on; a cold model's callers learn why it cannot start, until it can."""
    service = await serve_on(model("b"), model("a"), scheduling=IMPATIENT)
    await ask(service.openai(), "b", "x")
    (running,) = service.containers("b-0")

    with engine.full():
        for number in range(20):
            assert f"on{number}" in await ask(service.openai(), "b", f"on{number}")
        with pytest.raises(openai.InternalServerError) as refused:
            await ask(service.openai(), "a", "x")
        assert "no space left on device" in refused.value.message
        assert not service.containers("a-0")

    await _answers(service, "room")
    assert [one.id for one in service.containers("b-0")] == [running.id]
