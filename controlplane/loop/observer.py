"""Looks at the world again and again: devices, measured memory, and whether ready replicas still work.

Only reports what it saw; reading is slow, so it runs beside the loop.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from controlplane.core.health import Look, Pulse, feel
from controlplane.core.model import DeviceBudget, Replica, ReplicaState
from controlplane.errors import RuntimeFailure
from controlplane.loop.facts import Fact, Sick, Well
from controlplane.loop.world import World
from controlplane.ports import DeviceReading, Devices, Runtime

log = structlog.get_logger(__name__)

_SUSPECT_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ObserverRules:
    """`budget_mib` turns a device and its whole memory into what may be handed out."""

    every_seconds: float
    stall_seconds: float
    budget_mib: Callable[[str, int], int]


class Observer:
    """One task; `wake` makes it look at once, as a suspicion does."""

    def __init__(
        self, world: World, devices: Devices, runtime: Runtime, rules: ObserverRules, report: Callable[[Fact], None]
    ) -> None:
        self._world = world
        self._devices = devices
        self._runtime = runtime
        self._rules = rules
        self._report = report
        self._pulses: dict[tuple[str, int], Pulse] = {}
        self._woken = asyncio.Event()
        self._readable = True

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        while True:
            await self.measure()
            await self.feel_pulses()
            await self._pause()

    async def measure(self) -> None:
        """Read devices and the replicas' real use; what cannot be read keeps its last value."""
        readings = await self._devices.read()
        self._world.readings = {reading.device_id: reading for reading in readings}
        for reading in readings:
            budget = self._rules.budget_mib(reading.device_id, reading.total_mib)
            self._world.devices[reading.device_id] = DeviceBudget(reading.device_id, budget)
        try:
            for reading in readings:
                self._world.measured_mib.update(await self._measured(reading))
            self._readable = True
        except RuntimeFailure as exc:
            if self._readable:  # what is away is away for many looks
                log.warning("memory.unreadable", reason=str(exc))
            self._readable = False

    async def feel_pulses(self) -> None:
        """Probe every replica that should be working, all at once."""
        ready = [r for r in self._world.replicas.values() if r.state is ReplicaState.READY and r.healthy]
        alive = {(r.replica_id, r.generation) for r in ready}
        self._pulses = {key: pulse for key, pulse in self._pulses.items() if key in alive}
        await asyncio.gather(*(self._feel(replica) for replica in ready))

    async def _measured(self, reading: DeviceReading) -> dict[str, int]:
        here = {r.replica_id for r in self._world.replicas.values() if r.device_id == reading.device_id}
        if reading.kind == "host":
            found = await self._runtime.memory_mib()
        else:
            found = await self._runtime.device_memory_mib(reading.device_id) or {}
        return {name: mib for name, mib in found.items() if name in here}

    async def _feel(self, replica: Replica) -> None:
        slots, entry = self._world.slots.get(replica.replica_id), self._world.models.get(replica.model_id)
        if slots is None or slots.endpoint is None or entry is None:
            return
        key = (replica.replica_id, replica.generation)
        probe = await entry.adapter.probe(slots.endpoint)
        now = self._world.clock()
        look = Look(probe.ready, slots.leases > 0 and probe.running != 0, probe.progressed)
        pulse = feel(self._pulses.get(key, Pulse(now)), look, now, self._rules.stall_seconds)
        self._pulses[key] = pulse
        if pulse.verdict:
            self._report(Sick(replica.replica_id, replica.generation, pulse.verdict))
        elif probe.ready and slots.suspected:
            self._report(Well(replica.replica_id, replica.generation))

    async def _pause(self) -> None:
        suspicious = any(slots.suspected for slots in self._world.slots.values())
        try:
            async with asyncio.timeout(_SUSPECT_PAUSE_SECONDS if suspicious else self._rules.every_seconds):
                await self._woken.wait()
        except TimeoutError:
            pass
        finally:
            self._woken.clear()
