"""Memory on an accelerator is given to replicas by the pids of their trees."""

import os

from controlplane.ports import DeviceReading
from tests.contract.runtime_worlds import ProcessWorld
from tests.fakes.devices import FakeDevices


def silent(_: str) -> None:
    """Progress that nobody reads."""


async def test_device_memory_follows_the_tree(world: ProcessWorld) -> None:
    """The leader's and its children's use add up; strangers' use is nobody's; unused replicas are left out."""
    world.devices = FakeDevices(DeviceReading("gpu0", "cuda", 0, "GPU", 24_000, 500))
    runtime, _ = world.runtime()
    for replica_id in ("llm-0", "llm-1"):
        await runtime.start(world.order(replica_id), silent)
    engine = await world.desk.visitor("llm-0")
    await engine.do("child setsid")
    child = await world.desk.visitor("llm-0", "sleep")
    world.devices.set("gpu0", 9_000, {engine.pid: 1_000, child.pid: 5_000, os.getpid(): 2_000})
    assert await runtime.device_memory_mib("gpu0") == {"llm-0": 6_000}


async def test_device_memory_is_unknown_where_hidden(world: ProcessWorld) -> None:
    """A platform that hides processes, and a device that is not there, give None, which is not zero."""
    world.devices = FakeDevices(DeviceReading("gpu0", "cuda", 0, "GPU", 24_000, 500))
    runtime, _ = world.runtime()
    await runtime.start(world.order("llm-0"), silent)
    assert await runtime.device_memory_mib("gpu0") is None
    assert await runtime.device_memory_mib("gpu7") is None
