"""The admin API: what is there, why it waits, and the orders load, unload, pin, unpin."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from controlplane.api.admin.callbacks import add_callbacks
from controlplane.api.admin.views import (
    DeviceView,
    EventView,
    ExplainView,
    ModelView,
    ReplicaView,
    RequestView,
    device_views,
    event_view,
    explain_view,
    model_view,
    replica_view,
    request_view,
)
from controlplane.api.context import Context
from controlplane.api.errors import not_found
from controlplane.core.model import Outcome, RequestStatus
from controlplane.loop import rejections
from controlplane.store.records import RequestFilter

Limit = Annotated[int, Query(ge=1, le=1000)]


class ModelsAnswer(BaseModel):
    models: list[ModelView]


class ReplicasAnswer(BaseModel):
    replicas: list[ReplicaView]


class DevicesAnswer(BaseModel):
    devices: list[DeviceView]


class RequestsAnswer(BaseModel):
    requests: list[RequestView]
    next_cursor: str | None


class EventsAnswer(BaseModel):
    events: list[EventView]


class RequestQuery(BaseModel, extra="forbid"):
    status: RequestStatus | None = None
    outcome: Outcome | None = None
    model: str | None = None
    client: str | None = None
    limit: Limit = 100
    cursor: str | None = None


def admin_router(context: Context) -> APIRouter:
    """Routes under /admin; who may call them is decided before they are reached."""
    router = APIRouter(prefix="/admin", tags=["admin"])
    world, outlook = context.world, context.outlook

    @router.get("/models")
    async def models() -> ModelsAnswer:
        """Every configured model with its state and the reason why its requests wait."""
        return ModelsAnswer(models=[model_view(entry, world, outlook) for entry in world.models.values()])

    @router.get("/replicas")
    async def replicas() -> ReplicasAnswer:
        """Every replica that ever ran, with its reservation and what it really uses."""
        return ReplicasAnswer(replicas=[replica_view(r, world) for r in world.replicas.values()])

    @router.get("/devices")
    async def devices() -> DevicesAnswer:
        """Each device's ledger: declared, booked, held, measured, unattributed, free."""
        return DevicesAnswer(devices=device_views(world))

    @router.get("/requests")
    async def requests(query: Annotated[RequestQuery, Query()]) -> RequestsAnswer:
        """The journal, newest first; what waits has position, reason and expectation."""
        await context.store.flush()
        wanted = RequestFilter(query.model, query.status, query.outcome, query.client)
        try:
            page = await context.store.requests(wanted, query.cursor, query.limit)
        except ValueError as exc:
            raise rejections.invalid(f"cursor: {exc}; use next_cursor of the page before", "cursor") from exc
        return RequestsAnswer(
            requests=[request_view(record, outlook) for record in page.requests], next_cursor=page.next_cursor
        )

    @router.get("/events")
    async def events(after: Annotated[int, Query(ge=0)] = 0, limit: Limit = 100) -> EventsAnswer:
        """What happened, oldest first, from the event after the id `after` on."""
        await context.store.flush()
        found = await context.store.events(after, limit)
        return EventsAnswer(events=[event_view(event) for event in found])

    @router.get("/explain")
    async def explain(request_id: str | None = None, model: str | None = None) -> ExplainView:
        """The one reason why a request or a model waits, in a sentence and in numbers."""
        if (request_id is None) == (model is None):
            raise rejections.invalid("give either request_id or model", "request_id")
        if model is not None:
            entry = world.resolve(model)
            found = outlook.of_model(entry.spec.model_id) if entry else None
            if found is None:
                raise rejections.unknown_model(model, world.names())
            return explain_view(model, found)
        return await _explain_request(context, request_id or "")

    _add_orders(router, context)
    add_callbacks(router, context)
    return router


def _add_orders(router: APIRouter, context: Context) -> None:
    world, outlook, commands = context.world, context.outlook, context.commands

    @router.post("/models/{model_id:path}/load")
    async def load(model_id: str) -> ModelView:
        """Get a replica ready, making room as for the most urgent request; answers at once."""
        return model_view(await commands.load(model_id), world, outlook)

    @router.post("/models/{model_id:path}/unload")
    async def unload(model_id: str) -> ModelView:
        """Stop its replicas once their requests have ended; answers at once."""
        return model_view(await commands.unload(model_id), world, outlook)

    @router.post("/models/{model_id:path}/pin")
    async def pin(model_id: str) -> ModelView:
        """Never evict it, over what the file says; survives a restart."""
        return model_view(await commands.pin(model_id, pinned=True), world, outlook)

    @router.post("/models/{model_id:path}/unpin")
    async def unpin(model_id: str) -> ModelView:
        return model_view(await commands.pin(model_id, pinned=False), world, outlook)


async def _explain_request(context: Context, request_id: str) -> ExplainView:
    found = context.outlook.of_request(request_id)
    if found is not None:
        return explain_view(request_id, found)
    await context.store.flush()
    history = await context.store.request(request_id)
    if history is None:
        raise not_found(f"the request {request_id!r} is not known; it may be older than the retention allows")
    record = history.request
    ended = record.outcome.value if record.outcome else record.status.value
    because = f": {record.error_message}" if record.error_message else ""
    return ExplainView(
        subject=request_id,
        model_id=record.model_id,
        state=record.status.value,
        reason="none",
        sentence=f"it does not wait: {ended}{because}",
        position=None,
        waiting=context.world.queue.waiting(record.model_id),
        eta_seconds=None,
        numbers={"attempts": record.attempts},
    )
