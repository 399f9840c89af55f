"""/v1/files: uploads for batches, and what batches came to, in OpenAI's shape.

A key sees the files that came with it; one that may administer sees all.
"""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from controlplane.api.auth import Client
from controlplane.api.context import Context
from controlplane.api.errors import conflict, not_found
from controlplane.api.openai.uploads import MAX_BYTES, Upload, read_upload, too_large
from controlplane.errors import StoreFailure
from controlplane.loop import rejections
from controlplane.loop.batches.output_files import new_file_id
from controlplane.settings import Scope
from controlplane.store.batch_records import FileRecord, Purpose

_KEPT_SECONDS = 30 * 86400
_SHORTEST_SECONDS, _LONGEST_SECONDS = 3600, 30 * 86400


class FileShown(BaseModel):
    id: str
    object: str = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: str = "processed"
    status_details: str | None = None


class FilesShown(BaseModel):
    object: str = "list"
    data: list[FileShown]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    id: str
    object: str = "file"
    deleted: bool = True


class _Listed(BaseModel):
    """Which files to list."""

    model_config = ConfigDict(extra="forbid")

    purpose: str | None = None
    after: str | None = None
    limit: int = Field(default=10_000, ge=1, le=10_000)
    order: Literal["asc", "desc"] = "desc"


def files_router(context: Context) -> APIRouter:
    router = APIRouter(prefix="/v1/files", tags=["openai"])
    desk = _Desk(context)
    router.add_api_route("", desk.upload, methods=["POST"])
    router.add_api_route("", desk.files, methods=["GET"])
    router.add_api_route("/{file_id}", desk.one, methods=["GET"])
    router.add_api_route("/{file_id}", desk.delete, methods=["DELETE"])
    router.add_api_route("/{file_id}/content", desk.content, methods=["GET"], response_class=FileResponse)
    return router


class _Desk:
    """What may be asked about files."""

    def __init__(self, context: Context) -> None:
        self._keyring = context.keyring
        self._files = context.store.files
        self._folder = context.files
        self._clock = context.world.clock

    async def upload(self, request: Request) -> FileShown:
        """A form with `file` and `purpose`; on disk before this is answered."""
        client = self._client(request)
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > MAX_BYTES:
            raise too_large()
        file_id = new_file_id()
        writing = await asyncio.to_thread(self._folder.begin, file_id)
        try:
            content_type = request.headers.get("content-type", "").encode("latin-1")
            uploaded = await read_upload(content_type, request.stream(), writing)
            row = self._row(file_id, writing.size_bytes, uploaded, client)
            await asyncio.to_thread(writing.keep)
        except ClientDisconnect as exc:
            raise rejections.invalid("the upload was broken off") from exc
        finally:
            await asyncio.to_thread(writing.drop)
        try:
            await self._files.add(row)
        except StoreFailure:
            await asyncio.to_thread(self._folder.remove, file_id)
            raise
        return shown_file(row)

    async def files(self, listed: Annotated[_Listed, Query()], request: Request) -> FilesShown:
        client = self._client(request)
        mine = None if Scope.ADMIN in client.scopes else client.name
        purpose = Purpose(listed.purpose) if listed.purpose in list(Purpose) else None
        if listed.purpose is not None and purpose is None:
            return FilesShown(data=[], first_id=None, last_id=None, has_more=False)
        newest = listed.order == "desc"
        rows = await self._files.page(mine, purpose, listed.after, listed.limit + 1, newest=newest)
        data = [shown_file(row) for row in rows[: listed.limit]]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return FilesShown(data=data, first_id=first, last_id=last, has_more=len(rows) > listed.limit)

    async def one(self, file_id: str, request: Request) -> FileShown:
        return shown_file(await self._found(file_id, request))

    async def content(self, file_id: str, request: Request) -> FileResponse:
        row = await self._found(file_id, request)
        return FileResponse(
            self._folder.path(row.file_id),
            media_type="application/octet-stream",
            filename=row.filename,
            headers={"x-content-type-options": "nosniff"},
        )

    async def delete(self, file_id: str, request: Request) -> FileDeleted:
        await self._found(file_id, request)
        if not await self._files.remove(file_id) and await self._files.one(file_id) is not None:
            raise conflict(f"{file_id} is the input of a batch that is not over; cancel the batch first")
        await asyncio.to_thread(self._folder.remove, file_id)
        return FileDeleted(id=file_id)

    def _row(self, file_id: str, size_bytes: int, uploaded: Upload, client: Client) -> FileRecord:
        if uploaded.fields.get("purpose") != Purpose.BATCH.value:
            message = f"purpose must be {Purpose.BATCH.value!r}: files are the input of batches here"
            missing = "purpose" not in uploaded.fields
            raise rejections.invalid(message, "purpose", "missing_field" if missing else "invalid_value")
        now = self._clock()
        return FileRecord(
            file_id=file_id,
            client=client.name,
            purpose=Purpose.BATCH,
            filename=uploaded.filename,
            bytes=size_bytes,
            created_at=now,
            expires_at=now + _seconds_kept(uploaded),
        )

    async def _found(self, file_id: str, request: Request) -> FileRecord:
        row, client = await self._files.one(file_id), self._client(request)
        if row is None or not (Scope.ADMIN in client.scopes or client.name == row.client):
            raise not_found(f"there is no file {file_id}")
        return row

    def _client(self, request: Request) -> Client:
        return self._keyring.identify(dict(request.scope["headers"]))


def shown_file(row: FileRecord) -> FileShown:
    return FileShown(
        id=row.file_id,
        bytes=row.bytes,
        created_at=int(row.created_at),
        expires_at=None if row.expires_at is None else int(row.expires_at),
        filename=row.filename,
        purpose=row.purpose.value,
    )


def seconds_kept(anchor: object, seconds: int, param: str) -> int:
    """How long after it was made a file stays. Raises RequestRejected."""
    if anchor != "created_at":
        raise rejections.invalid(f"{param}.anchor must be 'created_at'", f"{param}.anchor", "invalid_value")
    if not _SHORTEST_SECONDS <= seconds <= _LONGEST_SECONDS:
        message = f"{param}.seconds must be from {_SHORTEST_SECONDS} to {_LONGEST_SECONDS}"
        raise rejections.invalid(message, f"{param}.seconds", "invalid_value")
    return seconds


def _seconds_kept(uploaded: Upload) -> int:
    seconds = uploaded.fields.get("expires_after[seconds]")
    if seconds is None:
        return _KEPT_SECONDS
    number = int(seconds) if seconds.isascii() and seconds.isdigit() else 0
    return seconds_kept(uploaded.fields.get("expires_after[anchor]"), number, "expires_after")
