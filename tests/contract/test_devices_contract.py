"""What every Devices promises: the host's memory, GPUs behind a stand-in for NVML's library, and the fake."""

import pytest

from controlplane.ports import Devices
from controlplane.runtime.devices_host import HostMemory
from controlplane.runtime.devices_nvml import NvmlDevices
from tests.fakes.devices import FakeDevices
from tests.fakes.nvml import FakeNvml, Gpu


@pytest.fixture(params=["host", "nvml", "fake"])
def devices(request: pytest.FixtureRequest) -> Devices:
    every: dict[str, Devices] = {
        "host": HostMemory(),
        "nvml": NvmlDevices(FakeNvml(Gpu(), Gpu(used_mib=9_000, processes={41: 8_000}))),
        "fake": FakeDevices.host(),
    }
    return every[str(request.param)]


async def test_readings_make_sense(devices: Devices) -> None:
    """Every device has an id of its own, a size above zero, and a use between nothing and all of it."""
    readings = await devices.read()
    assert readings
    assert len({reading.device_id for reading in readings}) == len(readings)
    for reading in readings:
        assert reading.total_mib > 0
        assert reading.used_mib is not None
        assert 0 <= reading.used_mib <= reading.total_mib


async def test_devices_keep_their_names_and_order(devices: Devices) -> None:
    """Reading again gives the same devices in the same order: budgets and replicas name them."""
    first, second = await devices.read(), await devices.read()
    assert [reading.device_id for reading in first] == [reading.device_id for reading in second]
    assert [(reading.kind, reading.index) for reading in first] == [(r.kind, r.index) for r in second]
