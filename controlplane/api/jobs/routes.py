"""/api/v1/requests: what became of requests, their results and events, and the orders about jobs.

A key sees what came with it; one that may administer sees all.
"""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from controlplane.api.artifacts import artifact_response
from controlplane.api.auth import Client
from controlplane.api.context import Context
from controlplane.api.errors import conflict, not_found
from controlplane.api.jobs.events import Events
from controlplane.api.jobs.results import Results
from controlplane.api.jobs.submitting import REQUESTS_PATH
from controlplane.api.jobs.views import PriorityWish, RequestShownWhole, RequestsShown, Views
from controlplane.core.model import RequestStatus
from controlplane.errors import RequestRejected
from controlplane.loop import rejections
from controlplane.media.artifacts import Artifacts
from controlplane.settings import Scope
from controlplane.store.records import JobView, Mode, RequestFilter

_NOT_YET_SECONDS = 1.0


class _Listed(BaseModel):
    """Which requests to list."""

    model_config = ConfigDict(extra="forbid")

    status: RequestStatus | None = None
    model: str | None = None
    tag: str | None = None
    cursor: str | None = None
    limit: int = Field(default=100, ge=1, le=1000)


def jobs_router(context: Context) -> APIRouter:
    router = APIRouter(prefix=REQUESTS_PATH, tags=["requests"])
    desk = _Desk(context)
    router.add_api_route("", desk.requests, methods=["GET"])
    router.add_api_route("/{request_id}", desk.one, methods=["GET"])
    router.add_api_route("/{request_id}/result", desk.result, methods=["GET"], response_class=Response)
    router.add_api_route("/{request_id}/events", desk.follow, methods=["GET"], response_class=StreamingResponse)
    router.add_api_route("/{request_id}", desk.change, methods=["PATCH"])
    router.add_api_route("/{request_id}", desk.cancel, methods=["DELETE"])
    return router


class _Desk:
    """What may be asked about requests, and ordered of jobs."""

    def __init__(self, context: Context) -> None:
        self._keyring = context.keyring
        self._store = context.store
        self._orders = context.jobs.orders
        self._artifacts = context.media.artifacts
        self._views = Views(context.outlook, context.jobs.board)
        self._results = Results(context)
        self._events = Events(context)

    async def requests(
        self,
        request: Request,
        listed: Annotated[_Listed, Query()],
    ) -> RequestsShown:
        """Newest first."""
        client = self._client(request)
        mine = None if Scope.ADMIN in client.scopes else client.name
        wanted = RequestFilter(model_id=listed.model, status=listed.status, client=mine, tag=listed.tag)
        try:
            page = await self._store.requests(wanted, listed.cursor, listed.limit)
        except ValueError as exc:
            raise rejections.invalid(str(exc), "cursor", "invalid_value") from exc
        tags = await self._store.tags([row.request_id for row in page.requests])
        rows = [self._views.shown(row, tags.get(row.request_id, ())) for row in page.requests]
        return RequestsShown(requests=rows, next_cursor=page.next_cursor)

    async def one(self, request_id: str, request: Request) -> RequestShownWhole:
        """With every try."""
        return self._views.whole(await self._found(request_id, request))

    async def result(self, request_id: str, request: Request, index: Annotated[int, Query(ge=0)] = 0) -> Response:
        """As the call would have been answered; with an Accept for pictures, the file itself."""
        view = await self._found_job(request_id, request)
        if view.history.request.outcome is None:
            raise _not_yet(view)
        status, body = await self._results.of(request_id)
        if status == 200 and _wants_file(request):
            return _file(self._artifacts, body, index)
        return Response(body, status, {"x-request-id": request_id}, "application/json")

    async def follow(self, request_id: str, request: Request) -> StreamingResponse:
        """Server-sent events: queued, loading, processing, progress, text, done."""
        await self._found(request_id, request)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(self._events.of(request_id), media_type="text/event-stream", headers=headers)

    async def change(self, request_id: str, wish: PriorityWish, request: Request) -> RequestShownWhole:
        """Another priority, for what waits."""
        if not 0 <= wish.priority <= 100:
            message = "priority must be a whole number from 0 to 100 (higher goes first)"
            raise rejections.invalid(message, "priority", "invalid_priority")
        await self._found_job(request_id, request)
        if not await self._orders.set_priority(request_id, wish.priority):
            raise conflict(f"{request_id} has ended")
        return self._views.whole(await self._found(request_id, request))

    async def cancel(self, request_id: str, request: Request) -> RequestShownWhole:
        """Waiting or running, it ends as cancelled; once more does no harm."""
        view = await self._found_job(request_id, request)
        await self._orders.cancel(view.accepted)
        view = await self._found(request_id, request)
        if view.history.request.status is not RequestStatus.CANCELLED:
            raise conflict(f"{request_id} has ended: {view.history.request.status.value}")
        return self._views.whole(view)

    def _client(self, request: Request) -> Client:
        return self._keyring.identify(dict(request.scope["headers"]))

    async def _found(self, request_id: str, request: Request) -> JobView:
        view, client = await self._store.job(request_id), self._client(request)
        if view is None or not _may_see(client, view.history.request.client):
            raise not_found(f"there is no request {request_id}")
        return view

    async def _found_job(self, request_id: str, request: Request) -> JobView:
        view = await self._found(request_id, request)
        if view.history.request.mode is not Mode.ASYNC:
            raise conflict(f"{request_id} is no job: its caller waits for it, and ends it by closing the connection")
        return view


def _may_see(client: Client, owner: str | None) -> bool:
    return Scope.ADMIN in client.scopes or client.name == owner


def _not_yet(view: JobView) -> RequestRejected:
    row = view.history.request
    rejection = conflict(f"{row.request_id} has not ended; it is {row.status.value}")
    return RequestRejected(rejection.error, _NOT_YET_SECONDS)


def _wants_file(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "image/" in accepted and "application/json" not in accepted


def _file(artifacts: Artifacts, body: bytes, index: int) -> FileResponse:
    answer = orjson.loads(body)
    one = answer.get("image_path")
    paths: list[str] = answer.get("image_paths") or ([one] if one else [])
    if index >= len(paths):
        raise not_found(f"the result holds {len(paths)} pictures, so there is none with index {index}")
    return artifact_response(artifacts, paths[index].rpartition("/")[2])
