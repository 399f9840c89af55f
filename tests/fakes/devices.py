"""FakeDevices: readings that the test sets. Passes the same contract suite as the real devices."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from controlplane.ports import DeviceReading


class FakeDevices:
    """Implements `controlplane.ports.Devices` from fixed readings; `set` and `hide` change one."""

    def __init__(self, *readings: DeviceReading) -> None:
        self._readings = {reading.device_id: reading for reading in readings}

    @classmethod
    def host(cls, total_mib: int = 16_384, used_mib: int = 1_024) -> "FakeDevices":
        """One host-memory device."""
        return cls(DeviceReading("host", "host", 0, "host memory", total_mib, used_mib))

    async def read(self) -> Sequence[DeviceReading]:
        return list(self._readings.values())

    def set(self, device_id: str, used_mib: int, process_mib: Mapping[int, int] | None = None) -> None:
        """The device now shows this use."""
        reading = self._readings[device_id]
        self._readings[device_id] = replace(reading, used_mib=used_mib, process_mib=process_mib)

    def hide(self, device_id: str) -> None:
        """The device can no longer be read, but stays."""
        self._readings[device_id] = replace(self._readings[device_id], used_mib=None, process_mib=None)
