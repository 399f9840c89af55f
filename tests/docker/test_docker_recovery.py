"""SIGKILL of the control plane, and what its next life finds among the containers."""

import docker
import openai
import pytest

from tests.docker.container_service import Serve
from tests.integration.chats import ask, begin, later
from tests.integration.service import model, until

SLOW = {"tokens_per_second": 20}
# Longer than a busy machine takes to kill somebody.
LONG_LOAD = {"load_seconds": 8}


async def test_the_same_container_serves_again(serve: Serve) -> None:
    """It is adopted without a reload: the same id, started once, and the journal shows the cut stream."""
    service = await serve(model("a", script=SLOW))
    stream = await begin(service.openai(), "a", "cut", 2000)
    cut = later(stream.rest())
    await service.kept("a-0", "ready")
    before = await service.container("a-0")

    await service.kill()
    with pytest.raises(openai.APIError):
        await cut
    await service.start()
    assert "again" in await ask(service.openai(), "a", "again")

    (after,) = service.containers()
    assert (after.id, after.attrs["State"]["StartedAt"]) == (before.id, before.attrs["State"]["StartedAt"])
    assert (await service.replica("a-0"))["generation"] == 1
    assert (await service.journal())[-1]["outcome"] == "interrupted"


async def test_a_load_that_was_under_way_ends_once(serve: Serve) -> None:
    """The container that was loading at the SIGKILL is waited for, not started again."""
    service = await serve(model("a", script=LONG_LOAD))
    call = later(ask(service.openai(), "a", "x"))
    (loading,) = await until(lambda: service.containers("a-0", alive=True))

    await service.restart()
    with pytest.raises(openai.APIError):
        await call

    assert "later" in await ask(service.openai(), "a", "later")
    assert [one.id for one in service.containers()] == [loading.id]


async def test_a_load_that_was_frozen_is_begun_anew(serve: Serve) -> None:
    """Nobody waits for a container that somebody paused while it loaded: another one takes its place."""
    service = await serve(model("a", script=LONG_LOAD))
    call = later(ask(service.openai(), "a", "x"))
    (loading,) = await until(lambda: service.containers("a-0", alive=True))
    await service.kill()
    with pytest.raises(openai.APIError):
        await call

    loading.pause()
    await service.start()

    assert "later" in await ask(service.openai(), "a", "later")
    assert [one.id != loading.id for one in service.containers()] == [True]


async def test_a_changed_model_gets_another_container(serve: Serve) -> None:
    """The label's configuration is the old one: stopped, and made anew when asked for."""
    service = await serve(model("a", script=SLOW))
    await ask(service.openai(), "a", "x")
    (before,) = service.containers()

    await service.kill()
    service.write(model("a", script={"tokens_per_second": 30}))
    await service.start()

    assert "new" in await ask(service.openai(), "a", "new")
    (after,) = service.containers()
    assert after.id != before.id
    assert after.labels["im.config-hash"] != before.labels["im.config-hash"]


async def test_containers_without_a_row_are_removed(serve: Serve) -> None:
    """The store is lost between two lives: what runs is an orphan, and the model starts from nothing."""
    service = await serve(model("a"))
    await ask(service.openai(), "a", "x")
    (orphan,) = service.containers()

    await service.kill()
    for path in service.state_dir.glob("store.sqlite*"):
        path.unlink()
    await service.start()

    assert not service.containers()
    assert not service.litter()
    assert await service.logged("replica.orphan_removed", replica="a-0")
    assert await ask(service.openai(), "a", "x")
    assert orphan.id not in [one.id for one in service.containers()]


async def test_a_start_that_was_broken_off_leaves_nothing(serve: Serve, client: docker.DockerClient) -> None:
    """A container that was made and never started, by a life that is over, is gone once the next one listens."""
    service = await serve(model("a"))
    await ask(service.openai(), "a", "x")
    (running,) = service.containers()
    labels = {**running.labels, "im.replica": "a-1"}

    await service.kill()
    client.containers.create(running.image, ["never"], labels=labels, name=service.name("a-1"), network_mode="none")
    assert len(service.containers()) == 2
    await service.start()

    assert [one.id for one in service.containers()] == [running.id]


async def test_a_container_that_died_in_between_is_replaced(serve: Serve) -> None:
    """It served when the control plane was killed and is dead at the restart: it comes back without a request."""
    service = await serve(model("a"))
    await ask(service.openai(), "a", "x")
    await service.kept("a-0", "ready")
    (before,) = service.containers()

    await service.kill()
    before.kill()
    await service.start()

    assert (await service.in_state("a-0", "ready"))["generation"] == 2
    assert [one.id != before.id for one in service.containers()] == [True]


async def test_another_store_on_the_same_engine_is_left_alone(serve: Serve) -> None:
    """Two services share a Docker engine: the restart of one neither adopts nor removes what the other runs."""
    one, other = await serve(model("a")), await serve(model("a"))
    await ask(one.openai(), "a", "x")
    await ask(other.openai(), "a", "x")
    (theirs,) = other.containers()

    await one.restart()
    await ask(one.openai(), "a", "again")
    await one.order("a", "unload")
    await until(lambda: not one.containers())

    assert "still" in await ask(other.openai(), "a", "still")
    assert [container.id for container in other.containers()] == [theirs.id]
