"""The end: every replica is stopped, and the rows say so.

Runs after the loop has ended, so nobody else changes rows.
"""

import structlog

from controlplane.core import lifecycle
from controlplane.core.lifecycle import Backoff
from controlplane.core.model import ReplicaState
from controlplane.errors import StoreFailure
from controlplane.loop.actuator import Actuator
from controlplane.loop.facts import learned
from controlplane.loop.loop import Inbox
from controlplane.loop.rows import RowKeeper
from controlplane.loop.world import World

log = structlog.get_logger(__name__)

_ALIVE = frozenset({ReplicaState.STARTING, ReplicaState.READY, ReplicaState.ASLEEP})


async def stop_replicas(world: World, inbox: Inbox, rows: RowKeeper, actuator: Actuator, backoff: Backoff) -> None:
    """Stop every replica and wait until each is proved gone."""
    for replica in list(world.replicas.values()):
        if replica.state in _ALIVE:
            rows.note(replica.replica_id, {"reason": "shutdown"})
            world.update(lifecycle.stopping(replica, world.clock()))
    while any(replica.holds_memory for replica in world.replicas.values()):
        inbox.woken.clear()
        for fact in inbox.take():
            told = world.replicas.get(fact.replica_id)
            if told is not None and told.generation == fact.generation:
                world.update(learned(fact, told, world.clock(), backoff))
        try:
            await rows.commit()
        except StoreFailure as exc:
            log.error("shutdown.store_failed", reason=str(exc))
        actuator.reconcile(world.replicas)
        if any(replica.holds_memory for replica in world.replicas.values()):
            await inbox.woken.wait()
