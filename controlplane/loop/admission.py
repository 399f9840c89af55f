"""The door: which calls are accepted, for which model, at which priority, until when.

Refusals are made here, before anything is spent; whatever is accepted gets an
exchange that ends in exactly one outcome.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import getrandbits
from types import MappingProxyType
from typing import NamedTuple

from adapters.base import Call
from controlplane.core.model import InferenceType, ReplicaState, RequestHead
from controlplane.errors import RequestRejected
from controlplane.loop import rejections
from controlplane.loop.exchange import Accepted, Exchange, Surroundings
from controlplane.loop.outlook import Outlook
from controlplane.loop.telemetry import Telemetry
from controlplane.loop.world import ModelEntry, World
from controlplane.store.records import RequestAccepted


class Ask(NamedTuple):
    """A call at the door. `types` are the kinds the path is for; empty means any the engine serves.

    `body_for` returns the body to pass on, given the name the engine knows the
    model by, or None when the caller's own name will do. `fields` are the body's
    own, for engines that batch by them. `entered_by` is the path the caller used,
    where that is not the engine's.
    """

    method: str
    path: str
    model: str
    types: tuple[InferenceType, ...]
    body_for: Callable[[str | None], bytes]
    content_type: bytes
    stream: bool
    priority: int | None
    deadline_seconds: float | None
    client: str | None
    fields: Mapping[str, object] = MappingProxyType({})
    entered_by: str = ""


@dataclass(frozen=True, slots=True)
class DoorRules:
    """Limits at the door; see scheduling in the configuration."""

    queue_limit: int
    queue_limit_per_model: int | None
    default_deadline_seconds: float
    patience: int


class Admission:
    """Accepts or refuses; never waits."""

    def __init__(
        self, world: World, outlook: Outlook, around: Surroundings, telemetry: Telemetry, rules: DoorRules
    ) -> None:
        self._world = world
        self._outlook = outlook
        self._around = around
        self._telemetry = telemetry
        self._rules = rules
        self._open = True
        self._empty = asyncio.Event()
        self._live: dict[str, Exchange] = {}

    def admit(self, ask: Ask) -> Exchange:
        """Raises RequestRejected with what the caller should get."""
        try:
            entry = self._entry(ask.model)
            self._check(entry, ask)
        except RequestRejected as exc:
            self._count(exc)
            raise
        return self._accept(entry, ask)

    def find(self, model: str, types: tuple[InferenceType, ...], path: str) -> ModelEntry:
        """The model that a call would go to, for whoever writes the body for its engine. Raises RequestRejected."""
        try:
            entry = self._entry(model)
            _check_kind(entry, types, path)
        except RequestRejected as exc:
            self._count(exc)
            raise
        return entry

    @property
    def is_open(self) -> bool:
        return self._open

    def close(self) -> None:
        """From now on everything is refused; what was accepted goes on."""
        self._open = False
        self._note_empty()

    async def drained(self, limit_seconds: float) -> bool:
        """After `close`: wait until every accepted call has ended; False when the limit came first."""
        try:
            async with asyncio.timeout(limit_seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def live(self) -> Iterator[Exchange]:
        """Accepted and not ended yet."""
        return iter(self._live.values())

    def _count(self, rejection: RequestRejected) -> None:
        self._telemetry.rejected.labels(rejection.error.code or rejection.error.type).inc()

    def _entry(self, model: str) -> ModelEntry:
        if not self._open:
            raise rejections.closing()
        entry = self._world.resolve(model)
        if entry is None:
            raise rejections.unknown_model(model, self._world.names())
        return entry

    def _check(self, entry: ModelEntry, ask: Ask) -> None:
        spec = entry.spec
        _check_kind(entry, ask.types, ask.path)
        if not entry.adapter.serves(ask.path):
            raise rejections.invalid(f"{spec.model_id} does not serve {ask.path}", "model", "unsupported_endpoint", 404)
        if self._world.free_slots(spec.model_id) is None:
            self._check_line(entry)

    def _check_line(self, entry: ModelEntry) -> None:
        """Only for calls that will have to wait."""
        model_id, rules, queue = entry.spec.model_id, self._rules, self._world.queue
        budgets = [device.budget_mib for device in self._world.devices.values()]
        if entry.spec.vram_mib > max(budgets, default=0):
            raise rejections.never_fits(model_id, entry.spec.vram_mib, max(budgets, default=0))
        if len(queue) >= rules.queue_limit:
            raise rejections.queue_full(len(queue), rules.queue_limit, self._outlook.retry_after_seconds(model_id))
        mine, limit = queue.waiting(model_id), rules.queue_limit_per_model
        if limit is not None and mine >= limit:
            raise rejections.queue_full(mine, limit, self._outlook.retry_after_seconds(model_id))
        self._check_failing(model_id)

    def _check_failing(self, model_id: str) -> None:
        now = self._world.clock()
        for replica in self._world.replicas.values():
            resting = replica.state is ReplicaState.FAILED and replica.retry_at > now
            if replica.model_id == model_id and resting and replica.failures >= self._rules.patience:
                raise rejections.model_failing(model_id, replica.failure_reason, max(1.0, replica.retry_at - now))

    def _accept(self, entry: ModelEntry, ask: Ask) -> Exchange:
        now, spec = self._world.clock(), entry.spec
        # Growing with time: rows with random keys cost the journal a third more.
        request_id = f"req_{int(now * 1000):011x}{getrandbits(64):016x}"
        priority = spec.priority if ask.priority is None else ask.priority
        deadline_at = now + (ask.deadline_seconds or self._rules.default_deadline_seconds)
        known = ask.model == spec.model_id or ask.model in entry.settings.aliases
        call = Call(
            method=ask.method,
            path=ask.path,
            body=ask.body_for(None if known else spec.model_id),
            content_type=ask.content_type,
            request_id=request_id,
            priority=priority,
            stream=ask.stream,
        )
        kind = _kind(spec.types, ask.types) or spec.types[0]
        entered_by = ask.entered_by or ask.path
        journal = RequestAccepted(
            request_id, entered_by, kind, spec.model_id, priority, now, ask.client, ask.stream, deadline_at
        )
        self._around.store.journal_accepted(journal)
        head = RequestHead(request_id, spec.model_id, priority, now, deadline_at)
        if entry.batching.counts_rows:
            head = _measured(head, entry, ask)
        accepted = Accepted(call, head, kind, entry, journal)
        exchange = Exchange(accepted, self._around, self._telemetry.model(spec.model_id), self._ended)
        self._live[request_id] = exchange
        return exchange

    def _ended(self, exchange: Exchange) -> None:
        self._live.pop(exchange.accepted.head.request_id, None)
        self._note_empty()

    def _note_empty(self) -> None:
        if not self._open and not self._live:
            self._empty.set()


def _check_kind(entry: ModelEntry, wanted: tuple[InferenceType, ...], path: str) -> None:
    does = entry.spec.types
    if _kind(does, wanted) is None:
        message = f"{path} is for {_words(wanted)}; {entry.spec.model_id} does {_words(does)}"
        raise rejections.invalid(message, "model", "wrong_type")


def _measured(head: RequestHead, entry: ModelEntry, ask: Ask) -> RequestHead:
    rows = entry.batching.rows(entry.adapter.rows(ask.path, ask.fields))
    return replace(head, rows=rows, key=entry.adapter.batch_key(ask.path, ask.fields))


def _kind(does: tuple[InferenceType, ...], wanted: tuple[InferenceType, ...]) -> InferenceType | None:
    """The first kind a model does that the path is for."""
    if not wanted:
        return does[0]
    for kind in does:
        if kind in wanted:
            return kind
    return None


def _words(types: tuple[InferenceType, ...]) -> str:
    return " or ".join(sorted(kind.value for kind in types))
