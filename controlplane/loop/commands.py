"""What the operator may order at run time: load, unload, pin, unpin.

An order becomes a durable intent or a cordon; the planner does the rest. Runs
in the loop's thread, so the state it reads is the state it changes.
"""

from collections.abc import Callable
from dataclasses import replace

from controlplane.core import lifecycle
from controlplane.core.model import Intent, ReplicaState
from controlplane.errors import RequestRejected
from controlplane.loop import rejections
from controlplane.loop.world import ModelEntry, World
from controlplane.store.records import EventDraft
from controlplane.store.store import Store

_LIVE = frozenset({ReplicaState.STARTING, ReplicaState.READY})


class Commands:
    """Orders about one model each, by id, alias or type.

    Raise RequestRejected, or StoreFailure when the order could not be kept.
    """

    def __init__(self, world: World, store: Store, poke: Callable[[], None]) -> None:
        self._world = world
        self._store = store
        self._poke = poke

    async def load(self, name: str) -> ModelEntry:
        """Get a replica ready, making room as for the most urgent request."""
        entry = self._entry(name)
        model_id = entry.spec.model_id
        largest = max((device.budget_mib for device in self._world.devices.values()), default=0)
        if entry.spec.vram_mib > largest:
            raise rejections.never_fits(model_id, entry.spec.vram_mib, largest)
        if not any(True for _ in self._world.serving(model_id)):
            await self._set(model_id, replace(self._intent(model_id), load_since=self._world.clock()), "model.load")
        return entry

    async def unload(self, name: str) -> ModelEntry:
        """Stop its replicas once their leases end. Requests that come later load it again."""
        entry = self._entry(name)
        model_id = entry.spec.model_id
        if entry.spec.min_replicas > 0:
            raise self._refused(
                f"{model_id} has min_replicas {entry.spec.min_replicas}, so it would start again; set it to 0"
            )
        if self._pinned(entry):
            raise self._refused(f"{model_id} is pinned; unpin it first")
        await self._set(model_id, replace(self._intent(model_id), load_since=None), "model.unload")
        for replica in list(self._world.replicas.values()):
            if replica.model_id == model_id and replica.state in _LIVE:
                self._world.update(lifecycle.cordoned(replica, ""))
        self._poke()
        return entry

    async def pin(self, name: str, *, pinned: bool) -> ModelEntry:
        """Over what the file says, until changed again."""
        entry = self._entry(name)
        model_id = entry.spec.model_id
        kind = "model.pin" if pinned else "model.unpin"
        await self._set(model_id, replace(self._intent(model_id), pinned=pinned), kind)
        return entry

    def _pinned(self, entry: ModelEntry) -> bool:
        pinned = self._intent(entry.spec.model_id).pinned
        return entry.spec.pinned if pinned is None else pinned

    def _entry(self, name: str) -> ModelEntry:
        entry = self._world.resolve(name)
        if entry is None:
            raise rejections.unknown_model(name, self._world.names())
        return entry

    def _intent(self, model_id: str) -> Intent:
        return self._world.intents.get(model_id, Intent())

    async def _set(self, model_id: str, intent: Intent, kind: str) -> None:
        await self._store.set_intent(model_id, intent, EventDraft(kind))
        self._world.intents[model_id] = intent
        self._poke()

    def _refused(self, message: str) -> RequestRejected:
        return rejections.invalid(message, "model", "conflict", 409)
