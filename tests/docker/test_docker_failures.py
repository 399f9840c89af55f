"""Containers that die, vanish or cannot be made: what callers see, what the owner is told, and that nothing is left."""

import asyncio
from pathlib import Path
from typing import Any

import docker
import openai
import pytest

from tests.docker import provision
from tests.docker.container_service import ContainerService, Serve
from tests.docker.gates import Gate
from tests.docker.registry import registry
from tests.integration.chats import ask, begin
from tests.integration.service import PATIENCE_SECONDS, model, until

SLOW = {"tokens_per_second": 20}
FOR_EVER = ["/usr/bin/python3", "-c", "import time; time.sleep(600)"]


async def _reborn(service: ContainerService, before: Any) -> Any:
    async def there() -> Any:
        view = await service.replica("a-0")
        return view if view.get("state") == "ready" and view["generation"] > before["generation"] else None

    return await until(there, what="the replica's next generation")


async def _refused(service: ContainerService) -> openai.InternalServerError:
    """The error of a model that cannot be started."""
    with pytest.raises(openai.InternalServerError) as refused:
        await ask(service.openai(), "a", "x")
    assert (refused.value.status_code, refused.value.code) == (503, "model_failed")
    return refused.value


@pytest.mark.parametrize("how", ["kill", "remove"])
async def test_a_stream_whose_container_ends_is_told_at_once(serve: Serve, how: str) -> None:
    """`docker kill` or `docker rm -f` amid an answer: an error event, and the replica comes back unasked.

    The answer would have taken 100 seconds, so whoever is patient for less has been told of the end.
    """
    service = await serve(model("a", script=SLOW), model("b", script=SLOW))
    client = service.openai()
    doomed, other = await asyncio.gather(begin(client, "a", "one", 2000), begin(client, "b", "two", 60))
    before, container = await service.replica("a-0"), await service.container("a-0")

    if how == "kill":
        container.kill()
    else:
        container.remove(force=True)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(openai.APIError, match="engine failed while answering"):
            await doomed.rest()

    assert await other.rest()
    assert other.complete
    await _reborn(service, before)
    assert [one.id != container.id for one in service.containers("a-0")] == [True]
    assert "three" in await ask(client, "a", "three")
    assert (await service.replica("b-0"))["generation"] == 1


async def test_a_container_removed_by_somebody_is_told_as_such(serve: Serve) -> None:
    """The events say who was not to blame: the engine did not crash, it was taken away."""
    service = await serve(model("a"))
    await ask(service.openai(), "a", "x")
    before = await service.replica("a-0")

    (await service.container("a-0")).remove(force=True)
    await _reborn(service, before)

    events = (await service.admin("events", limit=1000))["events"]
    # On a busy machine its failure and its next start are one change, and one event tells of both.
    told = [str(event["detail"]) for event in events if event["subject"] == "a-0"]
    assert any("removed by somebody else" in text or "code 137" in text for text in told), told


async def test_an_engine_that_takes_more_than_its_limit_is_told_so(serve: Serve) -> None:
    """The kernel kills it at 128 MiB; the caller's error says out of memory and names the limit."""
    greedy = {"memory_mib": 400}
    service = await serve(model("a", script=greedy), docker={"memory_mib": 128})

    refused = await _refused(service)

    assert "out of memory" in refused.message
    assert "128 MiB" in refused.message
    await until(lambda: not service.containers())


async def test_a_missing_image_is_asked_for_and_told(serve: Serve) -> None:
    """The registry is asked; its refusal and what to do about it are in the caller's error, and nothing is left."""
    with registry() as place:
        image = f"{place.address}/engines/simulated:7"
        service = await serve(model("a"), docker={"images": {"simulated": image}})
        refused = await _refused(service)

    assert f"cannot pull {image}" in refused.message
    assert "pull or build it by hand" in refused.message
    assert "/v2/engines/simulated/manifests/7" in place.asked
    assert not service.containers()


async def test_a_name_that_a_stranger_holds_is_told(serve: Serve, client: docker.DockerClient) -> None:
    """The stranger's container is neither taken nor touched; once it is gone the model starts."""
    backoff = {"backoff_initial_seconds": 0.2, "backoff_max_seconds": 1}
    service = await serve(model("a"), scheduling=backoff)
    stranger = client.containers.run(
        provision.PYTHON_IMAGE, FOR_EVER, name=service.name("a-0"), detach=True, init=True, network_mode="none"
    )
    try:
        refused = await _refused(service)
        stranger.reload()
        assert stranger.status == "running"
    finally:
        stranger.remove(force=True)

    assert "is already in use by container" in refused.message
    assert "docker ps" in refused.message

    async def answered() -> bool:
        try:
            return "finally" in await ask(service.openai(), "a", "finally")
        except openai.InternalServerError:
            return False

    assert await until(answered)


async def test_an_engine_that_ends_at_start_leaves_no_container(serve: Serve) -> None:
    """Three starts, three exits with code 7: the reason has the code, and no dead container waits for anybody."""
    service = await serve(model("a", script={"faults": [{"kind": "exit", "code": 7}]}))

    refused = await _refused(service)

    assert "code 7" in refused.message
    await until(lambda: not service.containers())
    assert not service.litter()


async def test_a_renamed_container_is_still_ours(serve: Serve) -> None:
    """It is known by its labels: unloading the model removes it under whatever name."""
    service = await serve(model("a"))
    await ask(service.openai(), "a", "x")
    (container,) = service.containers()

    container.rename(f"{container.name}-renamed")
    await service.order("a", "unload")

    await until(lambda: not service.containers())
    assert "again" in await ask(service.openai(), "a", "again")


async def test_the_service_outlives_the_gate(serve: Serve, docker_socket: Path, tmp_path: Path) -> None:
    """Without the gate a warm model answers on; what ended meanwhile is found and replaced when it is back."""
    own = Gate(docker_socket, tmp_path / "gate.sock", tmp_path)
    own.start()
    try:
        service = await serve(model("a", script=SLOW), model("b"), address=own.address)
        client = service.openai()
        await asyncio.gather(ask(client, "a", "x"), ask(client, "b", "x"))
        before, kept = await service.replica("a-0"), await service.container("b-0")

        own.stop()
        (await service.container("a-0")).kill()
        assert "meanwhile" in await ask(client, "b", "meanwhile")
        own.start()

        await _reborn(service, before)
        assert "back" in await ask(client, "a", "back")
        assert (await service.container("b-0")).id == kept.id
        await service.end()
    finally:
        own.stop()
