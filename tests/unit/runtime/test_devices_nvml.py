"""GPUs through NVML: whatever single call fails, the device stays and only that figure is unknown."""

import pynvml
import pytest

from controlplane.ports import DeviceReading
from controlplane.runtime.devices import detect
from controlplane.runtime.devices_host import HostMemory
from controlplane.runtime.devices_nvml import NvmlDevices
from tests.fakes.nvml import FakeNvml, Gpu, Running

_MIB = 1024 * 1024


async def only(devices: NvmlDevices) -> DeviceReading:
    [reading] = await devices.read()
    return reading


async def test_a_gpu_is_read_in_full() -> None:
    """Id and index follow NVML's order, the UUID stands in the name, figures are MiB."""
    library = FakeNvml(Gpu(), Gpu("NVIDIA H200", "GPU-9", 143_771, 70_000, {12: 60_000, 13: 9_000}))
    _, second = await NvmlDevices(library).read()
    assert second == DeviceReading("gpu1", "cuda", 1, "NVIDIA H200 (GPU-9)", 143_771, 70_000, {12: 60_000, 13: 9_000})


async def test_names_may_be_bytes() -> None:
    """Older versions of the library give bytes."""
    assert (await only(NvmlDevices(FakeNvml(Gpu(b"Tesla", b"GPU-7"))))).name == "Tesla (GPU-7)"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("nvmlDeviceGetName", ("CUDA device 0 (GPU-1234)", 512, {5: 100})),
        ("nvmlDeviceGetUUID", ("NVIDIA RTX Test", 512, {5: 100})),
        ("nvmlDeviceGetComputeRunningProcesses", ("NVIDIA RTX Test (GPU-1234)", 512, None)),
        ("nvmlDeviceGetMemoryInfo", ("NVIDIA RTX Test (GPU-1234)", None, None)),
        ("nvmlDeviceGetHandleByIndex", ("NVIDIA RTX Test (GPU-1234)", None, None)),
        ("nvmlDeviceGetCount", ("NVIDIA RTX Test (GPU-1234)", None, None)),
    ],
)
async def test_one_failing_call_costs_one_figure(call: str, expected: tuple[object, ...]) -> None:
    """A device once seen stays, with its size, whatever call fails; when the call works again so does the figure."""
    library = FakeNvml(Gpu(processes={5: 100}))
    devices = NvmlDevices(library)
    whole = await only(devices)
    library.failing.add(call)
    reading = await only(devices)
    assert (reading.name, reading.used_mib, reading.process_mib) == expected
    assert (reading.device_id, reading.total_mib) == (whole.device_id, whole.total_mib)
    library.failing.clear()
    assert await only(devices) == whole


@pytest.mark.parametrize("figure", [None, 2**64 - 1, 2**60, 24_577 * _MIB])
async def test_hidden_process_figures_are_unknown(figure: int | None) -> None:
    """Missing, overflowed and impossible figures make the whole list unknown: a part would read as too little."""
    library = FakeNvml(Gpu(processes={5: 100}, raw_processes=[Running(6, figure)]))
    reading = await only(NvmlDevices(library))
    assert reading.process_mib is None
    assert reading.used_mib == 512


async def test_an_empty_process_list_may_mean_nothing() -> None:
    """Where the platform hides processes an empty list is unknown; elsewhere it is a fact."""
    assert (await only(NvmlDevices(FakeNvml(Gpu()), hides_processes=True))).process_mib is None
    assert (await only(NvmlDevices(FakeNvml(Gpu())))).process_mib == {}


async def test_a_driver_that_comes_later_is_found() -> None:
    """Without a driver there are no devices, and every read looks again."""
    library = FakeNvml(Gpu())
    library.failing.add("nvmlInit")
    devices = NvmlDevices(library)
    assert list(await devices.read()) == []
    library.failing.clear()
    assert len(await devices.read()) == 1


async def test_a_broken_session_is_opened_anew() -> None:
    """After the driver was reloaded the session is dead: the next read opens another, once."""
    library = FakeNvml(Gpu())
    devices = NvmlDevices(library)
    await devices.read()
    library.failing.add("nvmlDeviceGetCount")
    assert (await only(devices)).used_mib is None
    library.failing.clear()
    assert (await only(devices)).used_mib == 512
    await devices.read()
    assert library.sessions == 2


async def test_a_device_of_unknown_size_is_not_offered() -> None:
    """A device whose memory was never read cannot be planned on; it appears when it can be read."""
    library = FakeNvml(Gpu())
    library.failing.add("nvmlDeviceGetMemoryInfo")
    devices = NvmlDevices(library)
    assert list(await devices.read()) == []
    library.failing.clear()
    assert len(await devices.read()) == 1


async def test_detection_follows_the_choice() -> None:
    """`auto` takes GPUs when there is one, `host` never does, `cuda` waits for one."""
    gpus, none = FakeNvml(Gpu()), FakeNvml()
    assert isinstance(await detect("auto", gpus), NvmlDevices)
    assert isinstance(await detect("auto", none), HostMemory)
    assert isinstance(await detect("host", gpus), HostMemory)
    assert list(await (await detect("cuda", none)).read()) == []


async def test_the_real_library_answers_as_the_stand_in_does() -> None:
    """The real module offers each call we use; on a host without a driver it reads as no devices."""
    devices = await detect("cuda", pynvml)
    for reading in await devices.read():
        assert reading.total_mib > 0
    assert issubclass(pynvml.NVMLError, Exception)
    calls = [name for name in dir(FakeNvml) if name.startswith("nvml")]
    assert [name for name in calls if not callable(getattr(pynvml, name, None))] == []
