"""Boot: adopt what runs and is ours, remove what has no row, and close the books of the last life.

Runs once, before the loop. After it the world is a true picture of the host.
"""

import structlog

from adapters.http1 import Pool
from controlplane.core import lifecycle
from controlplane.core.model import Replica, ReplicaState
from controlplane.loop.rows import RowKeeper
from controlplane.loop.world import World
from controlplane.ports import RunningReplica, Runtime
from controlplane.store.store import Store

log = structlog.get_logger(__name__)

_ORPHAN_GRACE_SECONDS = 5.0
_SERVING = frozenset({ReplicaState.READY, ReplicaState.ASLEEP})


class Recovery:
    """Joins the store's rows with what the runtime finds alive."""

    def __init__(
        self, world: World, store: Store, runtime: Runtime, rows: RowKeeper, backoff: lifecycle.Backoff
    ) -> None:
        self._world = world
        self._store = store
        self._runtime = runtime
        self._rows = rows
        self._backoff = backoff

    async def run(self) -> None:
        """Raises StoreFailure or RuntimeFailure when the host cannot be read at all."""
        interrupted = await self._store.interrupt_open(self._world.clock())
        self._world.intents.update(await self._store.intents())
        await self._recall_loads()
        alive = {running.replica_id: running for running in await self._runtime.running()}
        await self._recall_replicas(alive)
        for orphan in alive.values():
            log.warning("replica.orphan_removed", replica=orphan.replica_id, handle=orphan.handle)
            await self._runtime.stop(orphan.replica_id, _ORPHAN_GRACE_SECONDS)
        adopted = [r.replica_id for r in self._world.replicas.values() if r.state in _SERVING]
        log.info("recovered", interrupted=interrupted, adopted=adopted)

    async def _recall_loads(self) -> None:
        for known in await self._store.load_times():
            entry = self._world.models.get(known.model_id)
            if entry is not None and entry.config_hash == known.config_hash:
                entry.load = type(entry.load)(known.mean_seconds, known.samples)

    async def _recall_replicas(self, alive: dict[str, RunningReplica]) -> None:
        """Takes out of `alive` what has a row; the rest are orphans."""
        for record in await self._store.replicas():
            replica = self._rows.remember(record)
            if replica.model_id not in self._world.models and not replica.holds_memory:
                await self._rows.drop(replica)
                continue
            self._world.update(replica)
            if replica.holds_memory:
                await self._meet(replica, self._mine(replica, alive))

    def _mine(self, replica: Replica, alive: dict[str, RunningReplica]) -> RunningReplica | None:
        found = alive.get(replica.replica_id)
        return alive.pop(replica.replica_id) if found is not None and found.generation == replica.generation else None

    async def _meet(self, replica: Replica, running: RunningReplica | None) -> None:
        """One row that says memory is held, and the process that was found for it, if any."""
        now = self._world.clock()
        if replica.state is ReplicaState.STOPPING:
            return
        if running is None:
            reason = "it was gone when the control plane came back"
            self._world.update(lifecycle.crashed(replica, reason, now, self._backoff))
        elif self._outdated(replica, running):
            self._rows.note(replica.replica_id, {"reason": "its configuration changed"})
            self._world.update(lifecycle.stopping(replica, now))
        elif replica.state in _SERVING:
            await self._adopt(replica, running)

    def _outdated(self, replica: Replica, running: RunningReplica) -> bool:
        entry = self._world.models.get(replica.model_id)
        return entry is None or entry.config_hash != running.config_hash

    async def _adopt(self, replica: Replica, running: RunningReplica) -> None:
        entry = self._world.models[replica.model_id]
        probe = await entry.adapter.probe(running.endpoint)
        if not probe.ready:
            reason = "it did not answer when the control plane came back"
            self._world.update(lifecycle.crashed(replica, reason, self._world.clock(), self._backoff))
            return
        self._world.connect(replica, running.endpoint, running.handle, Pool(running.endpoint))
        self._world.update(lifecycle.uncordoned(replica) if replica.cordoned else replica)
