"""/v1/batches: many calls in one file, done when nobody else wants the engines, in OpenAI's shape.

A key sees the batches that came with it; one that may administer sees all.
"""

from hashlib import sha256
from secrets import token_hex
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from controlplane.api.auth import Client
from controlplane.api.context import Context
from controlplane.api.errors import conflict, not_found
from controlplane.api.keyed import valid_key
from controlplane.api.openai.batch_lines import BATCH_ENDPOINTS
from controlplane.api.openai.files import seconds_kept
from controlplane.errors import RequestRejected
from controlplane.loop import rejections
from controlplane.settings import Scope
from controlplane.store.batch_records import BatchRecord, BatchStatus, Purpose
from controlplane.store.errors import KeyReused
from controlplane.store.records import IdempotencyClaim

WINDOW = "24h"
_WINDOW_SECONDS = 24 * 3600.0
_OUTPUT_KEPT_SECONDS = 30 * 86400
_MAX_METADATA, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512
_STAMPED = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class _Kept(BaseModel):
    anchor: str
    seconds: int


class BatchAsked(BaseModel):
    """A batch as it is ordered."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: _Kept | None = None


class BatchProblem(BaseModel):
    code: str
    line: int | None
    message: str
    param: str | None


class BatchProblems(BaseModel):
    object: str = "list"
    data: list[BatchProblem]


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchShown(BaseModel):
    id: str
    object: str = "batch"
    endpoint: str
    errors: BatchProblems | None
    input_file_id: str
    completion_window: str = WINDOW
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchesShown(BaseModel):
    object: str = "list"
    data: list[BatchShown]
    first_id: str | None
    last_id: str | None
    has_more: bool


class _Listed(BaseModel):
    """Which batches to list."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = None
    limit: int = Field(default=20, ge=1, le=100)


def batches_router(context: Context) -> APIRouter:
    router = APIRouter(prefix="/v1/batches", tags=["openai"])
    desk = _Desk(context)
    router.add_api_route("", desk.create, methods=["POST"])
    router.add_api_route("", desk.batches, methods=["GET"])
    router.add_api_route("/{batch_id}", desk.one, methods=["GET"])
    router.add_api_route("/{batch_id}/cancel", desk.cancel, methods=["POST"])
    return router


class _Desk:
    """What may be asked about batches, and ordered of them."""

    def __init__(self, context: Context) -> None:
        self._keyring = context.keyring
        self._files = context.store.files
        self._batches = context.store.batches
        self._wake = context.batches.wake
        self._clock = context.world.clock

    async def create(self, asked: BatchAsked, request: Request) -> BatchShown:
        """On disk before this is answered; its file is looked at afterwards."""
        client = self._client(request)
        _check(asked)
        await self._check_file(asked.input_file_id, client)
        try:
            row = await self._batches.create(self._row(asked, client), _claim(asked, client, request))
        except KeyReused as exc:
            raise rejections.invalid(str(exc), "Idempotency-Key", "idempotency_key_reused", 422) from exc
        if row is None:
            raise _no_file(asked.input_file_id)
        self._wake()
        return shown_batch(row)

    async def batches(self, listed: Annotated[_Listed, Query()], request: Request) -> BatchesShown:
        """Newest first."""
        client = self._client(request)
        mine = None if Scope.ADMIN in client.scopes else client.name
        rows = await self._batches.page(mine, listed.after, listed.limit + 1)
        data = [shown_batch(row) for row in rows[: listed.limit]]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return BatchesShown(data=data, first_id=first, last_id=last, has_more=len(rows) > listed.limit)

    async def one(self, batch_id: str, request: Request) -> BatchShown:
        return shown_batch(await self._found(batch_id, request))

    async def cancel(self, batch_id: str, request: Request) -> BatchShown:
        """What has not run ends; what has stays in the files. Once more does no harm."""
        await self._found(batch_id, request)
        cancelled = await self._batches.cancel(batch_id)
        row = await self._found(batch_id, request)
        if not cancelled and row.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
            raise conflict(f"{batch_id} is {row.status.value}, which is too late to cancel it")
        self._wake()
        return shown_batch(row)

    def _row(self, asked: BatchAsked, client: Client) -> BatchRecord:
        now, kept = self._clock(), asked.output_expires_after
        return BatchRecord(
            batch_id=f"batch_{int(now * 1000):011x}{token_hex(8)}",
            client=client.name,
            endpoint=asked.endpoint,
            input_file_id=asked.input_file_id,
            created_at=now,
            expires_at=now + _WINDOW_SECONDS,
            metadata=asked.metadata or {},
            output_expires_seconds=(
                seconds_kept(kept.anchor, kept.seconds, "output_expires_after") if kept else _OUTPUT_KEPT_SECONDS
            ),
        )

    async def _check_file(self, file_id: str, client: Client) -> None:
        row = await self._files.one(file_id)
        if row is None or not _may_see(client, row.client):
            raise _no_file(file_id)
        if row.purpose is not Purpose.BATCH:
            message = f"{file_id} has the purpose {row.purpose.value}; upload the input with the purpose batch"
            raise rejections.invalid(message, "input_file_id", "invalid_value")

    async def _found(self, batch_id: str, request: Request) -> BatchRecord:
        row, client = await self._batches.one(batch_id), self._client(request)
        if row is None or not _may_see(client, row.client):
            raise not_found(f"there is no batch {batch_id}")
        return row

    def _client(self, request: Request) -> Client:
        return self._keyring.identify(dict(request.scope["headers"]))


def shown_batch(row: BatchRecord) -> BatchShown:
    stamps: dict[str, Any] = {f"{name}_at": int(row.stamps[name]) if name in row.stamps else None for name in _STAMPED}
    problems = [BatchProblem(code=p.code, line=p.line, message=p.message, param=p.param) for p in row.errors]
    return BatchShown(
        id=row.batch_id,
        endpoint=row.endpoint,
        errors=BatchProblems(data=problems) if problems else None,
        input_file_id=row.input_file_id,
        status=row.status.value,
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
        created_at=int(row.created_at),
        expires_at=int(row.expires_at),
        request_counts=RequestCounts(total=row.total, completed=row.completed, failed=row.failed),
        metadata=dict(row.metadata) or None,
        **stamps,
    )


def _may_see(client: Client, owner: str | None) -> bool:
    return Scope.ADMIN in client.scopes or client.name == owner


def _no_file(file_id: str) -> RequestRejected:
    return rejections.invalid(f"there is no file {file_id}", "input_file_id", "file_not_found")


def _check(asked: BatchAsked) -> None:
    """Raises RequestRejected."""
    if asked.endpoint not in BATCH_ENDPOINTS:
        message = f"endpoint must be one of {', '.join(BATCH_ENDPOINTS)}"
        raise rejections.invalid(message, "endpoint", "invalid_value")
    if asked.completion_window != WINDOW:
        raise rejections.invalid(f"completion_window must be {WINDOW!r}", "completion_window", "invalid_value")
    named = asked.metadata or {}
    too_long = any(len(key) > _LONGEST_KEY or len(value) > _LONGEST_VALUE for key, value in named.items())
    if len(named) > _MAX_METADATA or too_long:
        message = f"metadata may have {_MAX_METADATA} pairs, of {_LONGEST_KEY} and {_LONGEST_VALUE} characters"
        raise rejections.invalid(message, "metadata", "invalid_value")


def _claim(asked: BatchAsked, client: Client, request: Request) -> IdempotencyClaim | None:
    """Raises RequestRejected."""
    header = request.headers.get("idempotency-key")
    if header is None:
        return None
    body = orjson.dumps(asked.model_dump(), option=orjson.OPT_SORT_KEYS)
    fingerprint = sha256(request.url.path.encode() + b"\0" + body).hexdigest()
    return IdempotencyClaim(client.name, valid_key(header.encode("latin-1")), fingerprint)
