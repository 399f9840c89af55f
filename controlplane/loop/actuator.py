"""The effects: starts and stops replicas until the world is as the committed rows say.

Level-triggered: it compares rows with what is under way, so nothing is lost
when a report or a process is. Effects only report facts back. Here stands the
one `except Exception` around an effect.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial

import structlog

from adapters.base import EngineAdapter
from adapters.endpoint import Endpoint
from adapters.errors import LaunchError
from controlplane.core.model import Replica, ReplicaState
from controlplane.errors import RuntimeFailure
from controlplane.loop.facts import Fact, Failed, Gone, Phase, Ready
from controlplane.loop.launches import LaunchBook
from controlplane.loop.proofs import Proofs
from controlplane.loop.world import DEFAULT_STOP_GRACE_SECONDS, World
from controlplane.ports import ReplicaExit, Runtime

log = structlog.get_logger(__name__)

_PROBE_SECONDS = 0.25
_LOG_LINES = 60
_STOP_RETRY_SECONDS = 5.0

Report = Callable[[Fact], None]


@dataclass(slots=True)
class _Effect:
    generation: int
    task: asyncio.Task[None]


class Actuator:
    """Owns the running effects. `report` takes facts and wakes the loop."""

    def __init__(self, world: World, runtime: Runtime, launches: LaunchBook, proofs: Proofs, report: Report) -> None:
        self._world = world
        self._runtime = runtime
        self._launches = launches
        self._proofs = proofs
        self._report = report
        self._clock = world.clock
        self._starts: dict[str, _Effect] = {}
        self._stops: dict[str, _Effect] = {}

    def reconcile(self, committed: Mapping[str, Replica]) -> None:
        """Begin what the rows ask for and is not under way. Rows that are not committed yet must not be passed."""
        for replica in committed.values():
            if replica.state is ReplicaState.STARTING and not _runs(self._starts, replica):
                self._begin(self._starts, replica, self._start(replica))
            elif replica.state is ReplicaState.STOPPING and not _runs(self._stops, replica):
                self._begin(self._stops, replica, self._stop(replica))

    def exited(self, exit_: ReplicaExit) -> None:
        """The runtime saw a main process end."""
        replica = self._world.replicas.get(exit_.replica_id)
        entry = self._world.models.get(replica.model_id) if replica else None
        lines = exit_.reason.splitlines()
        cause = entry.adapter.failure(lines) if entry else ""
        code = "its process ended" if exit_.code is None else f"its process ended with {_code(exit_.code)}"
        reason = f"{code}: {cause}" if cause else code
        self._report(Failed(exit_.replica_id, exit_.generation, reason))

    async def close(self) -> None:
        """Abandon effects under way; replicas are left as they are for the next life."""
        tasks = [effect.task for effect in (*self._starts.values(), *self._stops.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, effects: dict[str, _Effect], replica: Replica, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(self._guarded(replica, work), name=f"{replica.state} {replica.replica_id}")
        effects[replica.replica_id] = _Effect(replica.generation, task)
        task.add_done_callback(partial(_finished, effects, replica.replica_id))

    async def _guarded(self, replica: Replica, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except (RuntimeFailure, LaunchError) as exc:
            hopeless = isinstance(exc, LaunchError)
            self._report(Failed(replica.replica_id, replica.generation, str(exc), hopeless=hopeless))
        except Exception as exc:
            log.exception("effect.failed", replica=replica.replica_id, state=replica.state.value)
            # A broken effect must not spin: the next look begins it again.
            await asyncio.sleep(_STOP_RETRY_SECONDS)
            self._report(Failed(replica.replica_id, replica.generation, f"internal error: {exc}"))

    async def _start(self, replica: Replica) -> None:
        entry = self._world.models[replica.model_id]
        say = partial(self._phase, replica)
        order = await self._launches.order(replica, entry, self._world.readings[replica.device_id], say)
        began, footing = self._clock(), await self._proofs.before(replica)
        running = await self._runtime.start(order, say)
        async with asyncio.timeout(order.launch.ready_timeout_seconds) as limit:
            try:
                await self._until_ready(replica, entry.adapter, running.endpoint)
            except TimeoutError as exc:
                if not limit.expired():
                    raise
                seconds = order.launch.ready_timeout_seconds
                raise RuntimeFailure(f"{replica.replica_id} was not ready after {seconds:.0f} s") from exc
        took = self._clock() - began
        await self._proofs.learn(replica, footing)
        self._report(Ready(replica.replica_id, replica.generation, running.endpoint, running.handle, took))

    async def _until_ready(self, replica: Replica, adapter: EngineAdapter, endpoint: Endpoint) -> None:
        # An engine tells nobody when it is ready: asking is the only way. Its end arrives as an event (`exited`).
        shown = ""
        while not (await adapter.probe(endpoint)).ready:
            phase = adapter.cold_phase(await self._runtime.log_tail(replica.replica_id, _LOG_LINES))
            if phase and phase != shown:
                shown = phase
                self._phase(replica, phase)
            await asyncio.sleep(_PROBE_SECONDS)

    async def _stop(self, replica: Replica) -> None:
        start = self._starts.get(replica.replica_id)
        if start is not None:
            start.task.cancel()
            await asyncio.wait((start.task,))
        self._world.disconnect(replica.replica_id)
        proof = await self._proofs.before(replica)
        while True:
            try:
                await self._runtime.stop(replica.replica_id, self._grace_seconds(replica))
                break
            except RuntimeFailure as exc:
                log.warning("replica.stop_failed", replica=replica.replica_id, reason=str(exc))
                await asyncio.sleep(_STOP_RETRY_SECONDS)
        await self._proofs.returned(proof)
        self._report(Gone(replica.replica_id, replica.generation))

    def _grace_seconds(self, replica: Replica) -> float:
        entry = self._world.models.get(replica.model_id)
        return entry.stop_grace_seconds if entry else DEFAULT_STOP_GRACE_SECONDS

    def _phase(self, replica: Replica, text: str) -> None:
        self._report(Phase(replica.replica_id, replica.generation, text))


def _runs(effects: Mapping[str, _Effect], replica: Replica) -> bool:
    effect = effects.get(replica.replica_id)
    return effect is not None and effect.generation == replica.generation


def _finished(effects: dict[str, _Effect], replica_id: str, task: asyncio.Task[None]) -> None:
    effect = effects.get(replica_id)
    if effect is not None and effect.task is task:
        del effects[replica_id]


def _code(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"code {code}"
