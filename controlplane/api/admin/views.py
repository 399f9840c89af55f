"""What the admin API shows, as typed models; made from the world, never from a second truth."""

from typing import Any

from pydantic import BaseModel

from controlplane.core.ledger import Books, LedgerLine, Measured, ledger_line
from controlplane.core.model import Hold, Replica, RequestStatus
from controlplane.loop.outlook import Explanation, Outlook
from controlplane.loop.world import ModelEntry, World
from controlplane.store.records import EventRecord, RequestRecord


class ModelView(BaseModel):
    model_id: str
    aliases: list[str]
    types: list[str]
    engine: str
    state: str
    pinned: bool
    vram_mib: int
    priority: int
    waiting: int
    running: int
    max_concurrency: int
    load_seconds: float
    answer_seconds: float
    reason: str
    replicas: list[str]


class ReplicaView(BaseModel):
    replica_id: str
    model_id: str
    generation: int
    state: str
    healthy: bool
    cordoned_for: str | None
    device_id: str
    reserved_mib: int
    measured_mib: int | None
    phase: str
    leases: int
    failures: int
    retry_in_seconds: float | None
    failure_reason: str
    endpoint: str
    handle: str
    state_seconds: float


class HoldView(BaseModel):
    model_id: str
    mib: int


class DeviceView(BaseModel):
    device_id: str
    kind: str
    name: str
    total_mib: int
    budget_mib: int
    declared_mib: int
    booked_mib: int
    held_mib: int
    measured_mib: int
    unattributed_mib: int | None
    free_mib: int
    holds: list[HoldView]


class RequestView(BaseModel):
    request_id: str
    mode: str
    path: str
    type: str
    model_id: str
    priority: int
    status: str
    outcome: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    client: str | None
    stream: bool
    attempts: int
    http_status: int | None
    error_code: str | None
    error_message: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    wait_seconds: float | None
    first_byte_seconds: float | None
    position: int | None = None
    reason: str | None = None
    eta_seconds: float | None = None


class EventView(BaseModel):
    id: int
    at: float
    kind: str
    subject: str
    detail: dict[str, Any]


class ExplainView(BaseModel):
    subject: str
    model_id: str
    state: str
    reason: str
    sentence: str
    position: int | None
    waiting: int
    eta_seconds: float | None
    numbers: dict[str, float | str | list[str]]


def model_view(entry: ModelEntry, world: World, outlook: Outlook) -> ModelView:
    spec = entry.spec
    intent = world.intents.get(spec.model_id)
    pinned = spec.pinned if intent is None or intent.pinned is None else intent.pinned
    mine = [r.replica_id for r in world.replicas.values() if r.model_id == spec.model_id]
    return ModelView(
        model_id=spec.model_id,
        aliases=list(entry.settings.aliases),
        types=[kind.value for kind in spec.types],
        engine=entry.settings.engine.value,
        state=outlook.state_of(spec.model_id),
        pinned=pinned,
        vram_mib=spec.vram_mib,
        priority=spec.priority,
        waiting=world.queue.waiting(spec.model_id),
        running=sum(world.slots[name].leases for name in mine if name in world.slots),
        max_concurrency=spec.max_concurrency,
        load_seconds=round(entry.load.seconds, 2),
        answer_seconds=round(entry.answer.seconds, 3),
        reason=outlook.sentence_of_model(spec.model_id),
        replicas=mine,
    )


def replica_view(replica: Replica, world: World) -> ReplicaView:
    slots, now = world.slots.get(replica.replica_id), world.clock()
    return ReplicaView(
        replica_id=replica.replica_id,
        model_id=replica.model_id,
        generation=replica.generation,
        state=replica.state.value,
        healthy=replica.healthy,
        cordoned_for=replica.cordoned_for,
        device_id=replica.device_id,
        reserved_mib=replica.reserved_mib,
        measured_mib=world.measured_mib.get(replica.replica_id) if replica.holds_memory else None,
        phase=replica.phase,
        leases=slots.leases if slots else 0,
        failures=replica.failures,
        retry_in_seconds=max(0.0, replica.retry_at - now) if replica.failures and not replica.holds_memory else None,
        failure_reason=replica.failure_reason,
        endpoint=str(slots.endpoint) if slots and slots.endpoint else "",
        handle=slots.handle if slots else "",
        state_seconds=round(now - replica.changed_at, 3),
    )


def device_views(world: World) -> list[DeviceView]:
    books = Books({m: e.spec for m, e in world.models.items()}, world.replicas, world.holds)
    return [_device_view(device_id, world, books) for device_id in world.devices]


def _device_view(device_id: str, world: World, books: Books) -> DeviceView:
    reading = world.readings.get(device_id)
    measured = Measured(
        total_mib=reading.total_mib if reading else 0,
        used_mib=reading.used_mib if reading else None,
        replicas_mib=world.measured_mib,
    )
    line = ledger_line(world.devices[device_id], books, measured)
    holds = [_hold_view(hold) for hold in world.holds if hold.device_id == device_id]
    return _line_view(line, reading.kind if reading else "unknown", reading.name if reading else "", holds)


def _line_view(line: LedgerLine, kind: str, name: str, holds: list[HoldView]) -> DeviceView:
    return DeviceView(
        device_id=line.device_id,
        kind=kind,
        name=name,
        total_mib=line.total_mib,
        budget_mib=line.budget_mib,
        declared_mib=line.declared_mib,
        booked_mib=line.booked_mib,
        held_mib=line.held_mib,
        measured_mib=line.measured_mib,
        unattributed_mib=line.unattributed_mib,
        free_mib=line.free_mib,
        holds=holds,
    )


def _hold_view(hold: Hold) -> HoldView:
    return HoldView(model_id=hold.model_id, mib=hold.mib)


def request_view(record: RequestRecord, outlook: Outlook) -> RequestView:
    open_ = record.status in {RequestStatus.PENDING, RequestStatus.PROCESSING}
    found = outlook.of_request(record.request_id) if open_ else None
    fields = {name: getattr(record, name) for name in RequestView.model_fields if hasattr(record, name)}
    if found is not None:
        fields |= {
            "position": found.standing.position,
            "reason": found.sentence,
            "eta_seconds": found.standing.eta_seconds,
        }
    return RequestView.model_validate(fields)


def event_view(event: EventRecord) -> EventView:
    return EventView(id=event.id, at=event.at, kind=event.kind, subject=event.subject, detail=dict(event.detail))


def explain_view(subject: str, found: Explanation) -> ExplainView:
    wait, standing = found.wait, found.standing
    numbers: dict[str, float | str | list[str]] = {"slots": standing.slots, "busy": standing.busy}
    if wait is not None:
        numbers |= {"need_mib": wait.need_mib, "free_mib": wait.free_mib, "others": list(wait.others)}
        numbers["blockers"] = [f"{b.replica_id}: {b.why}, {b.mib} MiB" for b in wait.blockers]
    return ExplainView(
        subject=subject,
        model_id=found.model_id,
        state=found.state,
        reason=wait.kind.value if wait else "none",
        sentence=found.sentence,
        position=standing.position,
        waiting=standing.waiting,
        eta_seconds=standing.eta_seconds,
        numbers=numbers,
    )
