"""The service with engines in containers: answers, swaps, guards, and stops that leave nothing."""

from tests.docker.container_service import ContainerService, Serve
from tests.integration.chats import ask, later
from tests.integration.service import model, until

SLOW = {"tokens_per_second": 20}
STUBBORN = {"faults": [{"kind": "slow_free", "seconds": 300}], "memory_mib": 20}


async def test_a_chat_is_answered_from_a_container(serve: Serve) -> None:
    """The first call starts the container, the second finds it warm; the API names it."""
    service = await serve(model("a"))
    client = service.openai()
    assert "hello" in await ask(client, "a", "hello")
    first = await service.container("a-0")
    assert "again" in await ask(client, "a", "again")
    assert [one.id for one in service.containers()] == [first.id]
    assert first.name == service.name("a-0")


async def test_a_container_has_every_guard_and_limit(serve: Serve) -> None:
    """As the engine itself tells: no network, no capability, no new privilege, read-only, not root's, bounded.

    Being another user than the service, it reaches the folder of sockets all the same.
    """
    limits = {"memory_mib": 512, "cpus": 1.5, "shm_mib": 64, "user": "2000:2000"}
    service = await serve(model("a"), docker=limits, logs={"max_mib": 1, "keep": 2})
    await ask(service.openai(), "a", "hello")

    shown = (await service.container("a-0")).attrs
    host, config = shown["HostConfig"], shown["Config"]

    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert (host["Privileged"], host["ReadonlyRootfs"], host["Init"]) == (False, True, True)
    assert (host["Memory"], host["NanoCpus"], host["ShmSize"]) == (512 << 20, 1_500_000_000, 64 << 20)
    assert host["PidsLimit"] > 0
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "3"}}
    assert host["RestartPolicy"]["Name"] == "no"
    assert (config["User"], host["PortBindings"]) == ("2000:2000", None)
    assert {mount["Destination"]: mount["RW"] for mount in shown["Mounts"] if mount["RW"]} == {
        str(service.state_dir / "run" / "sockets"): True
    }


async def test_a_swap_keeps_to_the_budget(serve: Serve) -> None:
    """Two models that do not fit together: the first one's container is gone before the second one's is made."""
    service = await serve(model("a", mib=600), model("b", mib=600))
    client = service.openai()
    await ask(client, "a", "x")
    first = await service.container("a-0")

    call = later(ask(client, "b", "swap"))
    await until(lambda: service.containers("b-0"))

    assert not service.containers("a-0")
    assert "swap" in await call
    second = await service.container("b-0")
    assert second.attrs["Created"] > first.attrs["State"]["StartedAt"]
    assert (await _booked(service)) == 600


async def test_who_ignores_the_signal_is_killed_after_its_grace(serve: Serve) -> None:
    """The swap goes on after the grace and not after the five minutes that the process would like."""
    first = model("a", mib=600, script=STUBBORN, parameters={"stop_grace_seconds": 0.5})
    service = await serve(first, model("b", mib=600))
    client = service.openai()
    await ask(client, "a", "x")

    assert "swap" in await ask(client, "b", "swap")

    assert not service.containers("a-0")
    assert (await service.replica("a-0"))["state"] == "stopped"


async def test_a_paused_container_is_replaced_and_stopped(serve: Serve) -> None:
    """Somebody froze it: it answers no probe, so it is replaced, and freezing does not keep it from being removed."""
    service = await serve(model("a", script=SLOW), scheduling={"stall_seconds": 1, "resync_seconds": 0.5})
    client = service.openai()
    await ask(client, "a", "x")
    frozen = await service.container("a-0")

    frozen.pause()
    await until(lambda: frozen.id not in [one.id for one in service.containers()])

    assert "thawed" in await ask(client, "a", "thawed")


async def test_measured_memory_is_the_containers(serve: Serve) -> None:
    """An engine that allocates 100 MiB is measured to take at least that much, and not the whole host's."""
    service = await serve(model("a", mib=300, script={"memory_mib": 100}), scheduling={"resync_seconds": 0.2})
    await ask(service.openai(), "a", "x")

    async def measured() -> int | None:
        found = (await service.replica("a-0")).get("measured_mib") or 0
        return found if found >= 100 else None

    assert await until(measured) < 300


async def _booked(service: ContainerService) -> int:
    (device,) = (await service.admin("devices"))["devices"]
    return int(device["booked_mib"])
