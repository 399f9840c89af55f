"""Proof that an accelerator's memory came back after a stop; a promise is not enough.

On host memory the proof is that every process is gone, which the runtime gives.
On an accelerator the driver frees later, so the device itself is read until it
shows the room. What does not come back in time is logged as a suspect.
"""

import asyncio
from dataclasses import dataclass

import structlog

from controlplane.core.model import Replica
from controlplane.loop.world import World
from controlplane.ports import DeviceReading, Devices

log = structlog.get_logger(__name__)

_RETURNED_SHARE = 0.8
_LIMIT_SECONDS = 30.0
_READ_EVERY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Footing:
    """A device's use before something started or stopped; `used_mib` None: not measurable here."""

    replica: Replica
    used_mib: int | None


class Proofs:
    """Measures around starts and stops, which are serialised per device."""

    def __init__(self, world: World, devices: Devices) -> None:
        self._world = world
        self._devices = devices

    async def before(self, replica: Replica) -> Footing:
        reading = await self._read(replica.device_id)
        measurable = reading is not None and reading.kind == "cuda"
        return Footing(replica, reading.used_mib if reading is not None and measurable else None)

    async def learn(self, replica: Replica, footing: Footing) -> None:
        """What a start took; only used where the platform does not tell memory per process."""
        reading = await self._read(replica.device_id)
        if footing.used_mib is not None and reading is not None and reading.used_mib is not None:
            self._world.measured_mib.setdefault(replica.replica_id, max(0, reading.used_mib - footing.used_mib))

    async def returned(self, footing: Footing) -> None:
        """Wait until the device shows the memory back, at most 30 s."""
        owed = self._world.measured_mib.pop(footing.replica.replica_id, None)
        if footing.used_mib is None or not owed:
            return
        goal = footing.used_mib - _RETURNED_SHARE * owed
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                # The driver announces nothing: reading again is the only way.
                while (used := await self._used(footing.replica.device_id)) is not None and used > goal:  # noqa: ASYNC110
                    await asyncio.sleep(_READ_EVERY_SECONDS)
        except TimeoutError:
            log.warning("memory.not_returned", replica=footing.replica.replica_id, owed_mib=owed)

    async def _used(self, device_id: str) -> int | None:
        reading = await self._read(device_id)
        return reading.used_mib if reading is not None else None

    async def _read(self, device_id: str) -> DeviceReading | None:
        return next((r for r in await self._devices.read() if r.device_id == device_id), None)
