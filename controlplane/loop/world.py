"""The facts the loop owns: models, devices, replicas with their slots, holds, intents.

Holds state and answers questions about it; deciding is the planner's business
and effects are the actuator's. Used from the event loop's thread only.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from adapters.base import EngineAdapter
from adapters.endpoint import Endpoint
from adapters.http1 import Pool
from controlplane.core.batching import BatchRules, Mode
from controlplane.core.estimates import Estimate
from controlplane.core.model import (
    DeviceBudget,
    Hold,
    Intent,
    ModelSpec,
    Replica,
    RequestHead,
    Rules,
    Snapshot,
)
from controlplane.core.plan import Wait, WaitKind
from controlplane.core.queue import WaitQueue
from controlplane.ports import Clock, DeviceReading
from controlplane.settings import ModelSettings

DEFAULT_STOP_GRACE_SECONDS = 15.0
# For a replica whose model left the configuration.
_NOTHING_MORE = BatchRules(Mode.CONTINUOUS, batch_rows=1, depth_rows=0)


@dataclass(slots=True)
class Slots:
    """The live side of a replica: who may use it and how many do.

    `rows` is what the leases fill of a batch; `held` are their requests where the
    engine displaces, else nothing. `suspected`: something went wrong on its wire,
    so it was closed until it was looked at. `pool` None: not reachable yet.
    """

    replica_id: str
    model_id: str
    generation: int
    rules: BatchRules
    leases: int = 0
    rows: int = 0
    at_once_rows: int = field(init=False)
    by_request: dict[str, RequestHead] | None = field(init=False)
    last_used_at: float = 0.0
    open: bool = False
    suspected: bool = False
    endpoint: Endpoint | None = None
    handle: str = ""
    pool: Pool | None = None

    def __post_init__(self) -> None:
        self.at_once_rows = self.rules.at_once_rows
        self.by_request = {} if self.rules.displaces else None

    @property
    def free(self) -> bool:
        """Whether a request can be sent without a look at the line."""
        return self.open and self.rows < self.at_once_rows

    @property
    def held(self) -> Collection[RequestHead]:
        return self.by_request.values() if self.by_request is not None else ()

    def add(self, head: RequestHead) -> None:
        self.leases += 1
        self.rows += head.rows
        if self.by_request is not None:
            self.by_request[head.request_id] = head

    def remove(self, head: RequestHead) -> None:
        self.leases -= 1
        self.rows -= head.rows
        if self.by_request is not None:
            del self.by_request[head.request_id]


@dataclass(slots=True)
class ModelEntry:
    """One configured model with what it needs to be launched, called and estimated."""

    settings: ModelSettings
    spec: ModelSpec
    adapter: EngineAdapter
    config_hash: str
    load: Estimate
    batching: BatchRules
    stop_grace_seconds: float = DEFAULT_STOP_GRACE_SECONDS
    answer: Estimate = field(default_factory=lambda: Estimate(2.0))


class World:
    """Everything a decision may depend on, in one place."""

    def __init__(self, models: Mapping[str, ModelEntry], rules: Rules, clock: Clock) -> None:
        self.models = dict(models)
        self.rules = rules
        self.clock = clock
        self.queue = WaitQueue(rules.ageing_seconds_per_point)
        self.devices: dict[str, DeviceBudget] = {}
        self.readings: Mapping[str, DeviceReading] = {}
        self.measured_mib: dict[str, int] = {}
        self.replicas: dict[str, Replica] = {}
        self.slots: dict[str, Slots] = {}
        self.holds: tuple[Hold, ...] = ()
        self.waits: Mapping[str, Wait] = {}
        self.intents: dict[str, Intent] = {}
        self._of_model: dict[str, tuple[Slots, ...]] = {}
        self._names = {name: m.spec.model_id for m in models.values() for name in _names(m.settings)}

    def snapshot(self) -> Snapshot:
        return Snapshot(
            models={model_id: entry.spec for model_id, entry in self.models.items()},
            devices=dict(self.devices),
            replicas={replica.replica_id: self._used(replica) for replica in self.replicas.values()},
            leases={slots.replica_id: slots.leases for slots in self.slots.values()},
            demands=self.queue.demands(),
            holds=self.holds,
            intents=dict(self.intents),
            rules=self.rules,
        )

    def update(self, replica: Replica) -> None:
        """Take over a new row; whether leases may be granted follows from it at once."""
        self.replicas[replica.replica_id] = replica
        slots = self.slots.get(replica.replica_id)
        if slots is None or slots.generation != replica.generation:
            slots = self._new_slots(replica)
        slots.open = replica.serves and slots.pool is not None and not slots.suspected

    def connect(self, replica: Replica, endpoint: Endpoint, handle: str, pool: Pool) -> None:
        """From now on calls can reach the replica; leases follow once its row says ready."""
        slots = self.slots[replica.replica_id]
        slots.endpoint, slots.handle, slots.pool = endpoint, handle, pool
        slots.open = replica.serves

    def disconnect(self, replica_id: str) -> None:
        """Close every connection to a replica: what runs there is cancelled, nothing new gets in."""
        slots = self.slots.get(replica_id)
        if slots is not None and slots.pool is not None:
            slots.open = False
            slots.pool.close()
            slots.pool = None

    def forget(self, replica_id: str) -> None:
        self.disconnect(replica_id)
        self.replicas.pop(replica_id, None)
        slots = self.slots.pop(replica_id, None)
        if slots is not None:
            self._index(slots.model_id)

    def serving(self, model_id: str) -> Iterator[Slots]:
        return (slots for slots in self._of_model.get(model_id, ()) if slots.open)

    def by_load(self, model_id: str) -> Sequence[Slots]:
        """Every replica of the model, the least loaded first."""
        mine = self._of_model.get(model_id, ())
        return mine if len(mine) < 2 else sorted(mine, key=_rows)

    def free_slots(self, model_id: str) -> Slots | None:
        """The least loaded replica of the model that takes a request without a look at the line."""
        found: Slots | None = None
        for slots in self._of_model.get(model_id, ()):
            if slots.free and (found is None or slots.rows < found.rows):
                found = slots
        return found

    def resolve(self, name: str) -> ModelEntry | None:
        """The model of an id or alias, or the best one of a type: ready before cold, then by priority."""
        model_id = self._names.get(name)
        if model_id is not None:
            return self.models.get(model_id)
        able = [m for m in self.models.values() if name in m.spec.types]
        return min(able, key=self._preference, default=None)

    def names(self) -> list[str]:
        return sorted(self._names)

    def enqueue(self, head: RequestHead) -> None:
        self.queue.push(head)

    @property
    def room_is_wanted(self) -> bool:
        """Whether somebody waits for room, so that a replica falling idle is news."""
        ordered = any(intent.load_since is not None for intent in self.intents.values())
        return bool(self.holds) or ordered or any(wait.kind is WaitKind.NO_ROOM for wait in self.waits.values())

    def _preference(self, entry: ModelEntry) -> tuple[bool, int, str]:
        ready = any(True for _ in self.serving(entry.spec.model_id))
        return (not ready, -entry.spec.priority, entry.spec.model_id)

    def _new_slots(self, replica: Replica) -> Slots:
        entry = self.models.get(replica.model_id)
        self.disconnect(replica.replica_id)
        slots = Slots(
            replica_id=replica.replica_id,
            model_id=replica.model_id,
            generation=replica.generation,
            rules=entry.batching if entry else _NOTHING_MORE,
            last_used_at=replica.last_used_at,
        )
        self.slots[replica.replica_id] = slots
        self._index(replica.model_id)
        return slots

    def _index(self, model_id: str) -> None:
        self._of_model[model_id] = tuple(s for s in self.slots.values() if s.model_id == model_id)

    def _used(self, replica: Replica) -> Replica:
        slots = self.slots.get(replica.replica_id)
        if slots is None or slots.last_used_at <= replica.last_used_at:
            return replica
        return replace(replica, last_used_at=slots.last_used_at)


def _rows(slots: Slots) -> int:
    return slots.rows


def _names(model: ModelSettings) -> tuple[str, ...]:
    return (model.model_id, *model.aliases)
