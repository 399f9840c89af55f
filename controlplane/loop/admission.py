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
from controlplane.loop.dispatcher import Lease
from controlplane.loop.exchange import Accepted, Exchange, Surroundings
from controlplane.loop.outlook import Outlook
from controlplane.loop.telemetry import Telemetry
from controlplane.loop.world import ModelEntry, World
from controlplane.store.records import Mode, RequestAccepted


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

    def admit_job(self, ask: Ask) -> tuple[RequestAccepted, RequestHead]:
        """The row and the head of a job, whose line has no limit; nothing is kept of it. Raises RequestRejected."""
        try:
            entry = self._entry(ask.model)
            _check_call(entry, ask)
            self._check_size(entry)
        except RequestRejected as exc:
            self._count(exc)
            raise
        return self._draft(entry, ask, ask.deadline_seconds, Mode.ASYNC)

    def take_up(self, row: RequestAccepted, ask: Ask, lease: Lease, around: Surroundings) -> Exchange:
        """One try of a job that was admitted before, in this life or an earlier one, on the slot it was granted."""
        entry = self._world.models[row.model_id]
        call = _call(entry, ask, lease.head)._replace(kept=True)
        accepted = Accepted(call, lease.head, row.type, entry, row)
        exchange = Exchange(accepted, around, self._telemetry.model(row.model_id), self._ended, lease)
        self._live[row.request_id] = exchange
        return exchange

    def find(self, model: str, types: tuple[InferenceType, ...], path: str) -> ModelEntry:
        """The model that a call would go to, for whoever writes the body for its engine. Raises RequestRejected."""
        try:
            entry = self._named(model)
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
        return self._named(model)

    def _named(self, model: str) -> ModelEntry:
        entry = self._world.resolve(model)
        if entry is None:
            raise rejections.unknown_model(model, self._world.names())
        return entry

    def _check(self, entry: ModelEntry, ask: Ask) -> None:
        _check_call(entry, ask)
        if self._world.free_slots(entry.spec.model_id) is None:
            self._check_line(entry)

    def _check_line(self, entry: ModelEntry) -> None:
        """Only for calls that will have to wait."""
        model_id, rules, dispatcher = entry.spec.model_id, self._rules, self._around.dispatcher
        self._check_size(entry)
        if (waiting := dispatcher.callers()) >= rules.queue_limit:
            raise rejections.queue_full(waiting, rules.queue_limit, self._outlook.retry_after_seconds(model_id))
        mine, limit = dispatcher.callers(model_id), rules.queue_limit_per_model
        if limit is not None and mine >= limit:
            raise rejections.queue_full(mine, limit, self._outlook.retry_after_seconds(model_id))
        self._check_failing(model_id)

    def _check_size(self, entry: ModelEntry) -> None:
        largest = max((device.budget_mib for device in self._world.devices.values()), default=0)
        if entry.spec.vram_mib > largest:
            raise rejections.never_fits(entry.spec.model_id, entry.spec.vram_mib, largest)

    def _check_failing(self, model_id: str) -> None:
        now = self._world.clock()
        for replica in self._world.replicas.values():
            resting = replica.state is ReplicaState.FAILED and replica.retry_at > now
            if replica.model_id == model_id and resting and replica.failures >= self._rules.patience:
                raise rejections.model_failing(model_id, replica.failure_reason, max(1.0, replica.retry_at - now))

    def _accept(self, entry: ModelEntry, ask: Ask) -> Exchange:
        journal, head = self._draft(entry, ask, ask.deadline_seconds or self._rules.default_deadline_seconds)
        accepted = Accepted(_call(entry, ask, head), head, journal.type, entry, journal)
        self._around.journal.journal_accepted(journal)
        exchange = Exchange(accepted, self._around, self._telemetry.model(head.model_id), self._ended)
        self._live[head.request_id] = exchange
        return exchange

    def _draft(
        self, entry: ModelEntry, ask: Ask, deadline_seconds: float | None, mode: Mode = Mode.SYNC
    ) -> tuple[RequestAccepted, RequestHead]:
        now, spec = self._world.clock(), entry.spec
        # Growing with time: rows with random keys cost the journal a third more.
        request_id = f"req_{int(now * 1000):011x}{getrandbits(64):016x}"
        priority = spec.priority if ask.priority is None else ask.priority
        deadline_at = None if deadline_seconds is None else now + deadline_seconds
        kind = _kind(spec.types, ask.types) or spec.types[0]
        entered_by = ask.entered_by or ask.path
        journal = RequestAccepted(
            request_id, entered_by, kind, spec.model_id, priority, now, ask.client, ask.stream, deadline_at, mode
        )
        head = RequestHead(request_id, spec.model_id, priority, now, deadline_at)
        return journal, _measured(head, entry, ask) if entry.batching.counts_rows else head

    def _ended(self, exchange: Exchange) -> None:
        self._live.pop(exchange.accepted.head.request_id, None)
        self._note_empty()

    def _note_empty(self) -> None:
        if not self._open and not self._live:
            self._empty.set()


def _check_call(entry: ModelEntry, ask: Ask) -> None:
    _check_kind(entry, ask.types, ask.path)
    if not entry.adapter.serves(ask.path):
        message = f"{entry.spec.model_id} does not serve {ask.path}"
        raise rejections.invalid(message, "model", "unsupported_endpoint", 404)


def _call(entry: ModelEntry, ask: Ask, head: RequestHead) -> Call:
    known = ask.model == head.model_id or ask.model in entry.settings.aliases
    return Call(
        method=ask.method,
        path=ask.path,
        body=ask.body_for(None if known else head.model_id),
        content_type=ask.content_type,
        request_id=head.request_id,
        priority=head.priority,
        stream=ask.stream,
    )


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
