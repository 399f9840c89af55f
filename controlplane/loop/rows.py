"""Rows in the store and rows in memory: what differs is written in one transaction before any effect.

Remembers what is committed. Deciding and acting are not its business.
"""

from collections.abc import Mapping

from controlplane.core.model import Replica
from controlplane.loop.world import World
from controlplane.store.records import EventDraft, JsonValue, LoadTier, ReplicaChange, ReplicaRecord
from controlplane.store.store import Store


class RowKeeper:
    """The link between the world's replicas and the store's rows."""

    def __init__(self, world: World, store: Store) -> None:
        self._world = world
        self._store = store
        self._committed: dict[str, Replica] = {}
        self._created: dict[str, float] = {}
        self._notes: dict[str, Mapping[str, JsonValue]] = {}
        self._loads: list[tuple[str, str, LoadTier, float, int]] = []

    def note(self, replica_id: str, detail: Mapping[str, JsonValue]) -> None:
        """Say why the next change of this replica is made; it goes into the change's event."""
        self._notes[replica_id] = detail

    def remember(self, record: ReplicaRecord) -> Replica:
        """Take a row that was read from the store."""
        replica = from_record(record)
        self._committed[replica.replica_id] = replica
        self._created[replica.replica_id] = record.created_at
        return replica

    def learn_load(self, model_id: str, config_hash: str, tier: LoadTier, seconds: float, peak_mib: int) -> None:
        """To be written with the next commit."""
        self._loads.append((model_id, config_hash, tier, seconds, peak_mib))

    async def commit(self) -> None:
        """Write every row that changed. Raises StoreFailure, and then nothing was written."""
        while self._loads:
            await self._store.record_load(*self._loads[0])
            self._loads.pop(0)
        changed = [r for r in self._world.replicas.values() if self._committed.get(r.replica_id) is not r]
        if not changed:
            return
        await self._store.commit_replicas([self._change(replica) for replica in changed])
        for replica in changed:
            self._committed[replica.replica_id] = replica
            self._notes.pop(replica.replica_id, None)

    def settled(self) -> dict[str, Replica]:
        """Rows that are the same here and on disk: only these may be acted on."""
        return {name: r for name, r in self._world.replicas.items() if self._committed.get(name) is r}

    async def drop(self, replica: Replica) -> None:
        await self._store.delete_replica(replica.replica_id, replica.generation)
        self._committed.pop(replica.replica_id, None)
        self._world.forget(replica.replica_id)

    def _change(self, replica: Replica) -> ReplicaChange:
        before = self._committed.get(replica.replica_id)
        moved = before is None or before.state is not replica.state or before.cordoned_for != replica.cordoned_for
        event = EventDraft(f"replica.{_happened(replica, before)}", self._detail(replica)) if moved else None
        return ReplicaChange(self._record(replica), before.generation if before else None, event)

    def _detail(self, replica: Replica) -> dict[str, JsonValue]:
        detail: dict[str, JsonValue] = {"model": replica.model_id, "generation": replica.generation}
        if replica.failure_reason:
            detail["failure"] = replica.failure_reason
        return detail | dict(self._notes.get(replica.replica_id, {}))

    def _record(self, replica: Replica) -> ReplicaRecord:
        slots, entry = self._world.slots.get(replica.replica_id), self._world.models.get(replica.model_id)
        created = self._created.setdefault(replica.replica_id, replica.changed_at)
        return ReplicaRecord(
            replica_id=replica.replica_id,
            model_id=replica.model_id,
            generation=replica.generation,
            state=replica.state,
            device_id=replica.device_id,
            config_hash=entry.config_hash if entry else "",
            created_at=created,
            changed_at=replica.changed_at,
            reserved_mib=replica.reserved_mib if replica.holds_memory else None,
            endpoint=str(slots.endpoint) if slots and slots.endpoint else "",
            handle=slots.handle if slots else "",
            cordoned_for=replica.cordoned_for,
            failures=replica.failures,
            retry_at=replica.retry_at,
            failure_reason=replica.failure_reason,
            revive=replica.revive,
            phase=replica.phase,
            last_used_at=replica.last_used_at,
        )


def _happened(replica: Replica, before: Replica | None) -> str:
    if before is not None and before.state is replica.state:
        return "cordoned" if replica.cordoned else "uncordoned"
    return replica.state.value


def from_record(record: ReplicaRecord) -> Replica:
    return Replica(
        replica_id=record.replica_id,
        model_id=record.model_id,
        generation=record.generation,
        state=record.state,
        device_id=record.device_id,
        reserved_mib=record.reserved_mib or 0,
        changed_at=record.changed_at,
        cordoned_for=record.cordoned_for,
        last_used_at=record.last_used_at,
        failures=record.failures,
        retry_at=record.retry_at,
        failure_reason=record.failure_reason,
        revive=record.revive,
    )
