"""The result of a request: waited for, and as its caller gets it."""

import asyncio

import orjson

from controlplane.api.context import Context
from controlplane.api.errors import not_found
from controlplane.core.model import Outcome
from controlplane.store.records import JobView, RequestRecord

_LOOK_SECONDS = 5.0


class Results:
    """Of jobs; callers who waited for their answer had it then."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._board = context.jobs.board

    async def wait(self, request_id: str) -> None:
        """Return once it has ended."""
        with self._board.ends.heard(request_id) as ended:
            while True:
                ended.clear()
                if _over(await self._store.job(request_id)):
                    return
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await ended.wait()
                except TimeoutError:
                    continue

    async def of(self, request_id: str) -> tuple[int, bytes]:
        """Status and body of one that has ended. Raises RequestRejected (404)."""
        view = await self._store.job(request_id)
        if view is None:
            raise not_found(f"there is no request {request_id}")
        row, body = view.history.request, await self._store.job_result(request_id)
        status = row.http_status or 500
        return status, _failure(row) if body is None else body


def _over(view: JobView | None) -> bool:
    return view is None or view.history.request.outcome is not None


def _failure(row: RequestRecord) -> bytes:
    """For what ended without ever having reached an engine."""
    kind = "server_error" if row.outcome is not Outcome.CANCELLED else "invalid_request_error"
    error = {"message": row.error_message, "type": kind, "param": None, "code": row.error_code}
    return orjson.dumps(
        {
            "request_id": row.request_id,
            "type": row.type.value,
            "created_at": round(row.created_at, 3),
            "model": row.model_id,
            "status": row.status.value,
            "error_message": row.error_message,
            "error": error,
        }
    )
