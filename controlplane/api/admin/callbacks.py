"""The admin API of callbacks: which were given up, wait or were delivered, and the order to send one again."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from controlplane.api.context import Context
from controlplane.api.errors import conflict, not_found
from controlplane.loop import rejections
from controlplane.store.deliveries import DeliveryRecord, DeliveryState


class CallbackView(BaseModel):
    request_id: str
    url: str
    state: DeliveryState
    tries: int
    created_at: float
    due_at: float | None
    ended_at: float | None
    last_status: int | None
    last_error: str | None


class CallbacksAnswer(BaseModel):
    callbacks: list[CallbackView]
    next_cursor: str | None


class CallbackQuery(BaseModel, extra="forbid"):
    state: DeliveryState = DeliveryState.DEAD
    limit: Annotated[int, Query(ge=1, le=1000)] = 100
    cursor: str | None = None


def add_callbacks(router: APIRouter, context: Context) -> None:
    """Routes under /admin/callbacks."""
    outbox = context.store.outbox

    @router.get("/callbacks")
    async def callbacks(query: Annotated[CallbackQuery, Query()]) -> CallbacksAnswer:
        """Callbacks in one state, newest first; those that were given up, unless another state is named."""
        try:
            page = await outbox.page(query.state, query.cursor, query.limit)
        except ValueError as exc:
            raise rejections.invalid(f"cursor: {exc}; use next_cursor of the page before", "cursor") from exc
        return CallbacksAnswer(callbacks=[_view(each) for each in page.deliveries], next_cursor=page.next_cursor)

    @router.post("/callbacks/{request_id}/resend")
    async def resend(request_id: str) -> CallbackView:
        """Send a callback again that was given up, as if it had never been tried; answers at once."""
        found = await outbox.resend(request_id)
        if found is None:
            raise not_found(f"the request {request_id!r} has no callback; it may be older than the retention allows")
        if found.state is DeliveryState.DELIVERED:
            raise conflict(f"the callback of {request_id} was delivered; only one that was given up is sent again")
        return _view(found)


def _view(record: DeliveryRecord) -> CallbackView:
    return CallbackView(**{name: getattr(record, name) for name in CallbackView.model_fields})
