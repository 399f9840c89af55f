"""What is shown of a request under /api/v1/requests: its row, where it stands, and how far it is."""

from typing import Any

from pydantic import BaseModel

from controlplane.core.model import RequestStatus
from controlplane.loop.jobs.board import Board
from controlplane.loop.outlook import Outlook
from controlplane.store.records import JobView, RequestRecord


class AttemptShown(BaseModel):
    n: int
    replica_id: str
    started_at: float
    finished_at: float | None
    outcome: str | None
    error: str | None


class ProgressShown(BaseModel):
    done: int
    total: int
    unit: str


class RequestShown(BaseModel):
    """One request. `position`, `reason` and `eta_seconds` while it waits, `progress` while it runs."""

    request_id: str
    type: str
    model: str
    status: str
    created_at: float
    error_message: str | None
    error_code: str | None = None
    mode: str
    priority: int
    tags: list[str]
    attempts: int
    started_at: float | None = None
    finished_at: float | None = None
    deadline_at: float | None = None
    position: int | None = None
    reason: str | None = None
    eta_seconds: float | None = None
    progress: ProgressShown | None = None


class RequestShownWhole(RequestShown):
    """With every try, and where its end is told."""

    tries: list[AttemptShown]
    callback_url: str | None
    usage: dict[str, int] | None = None


class RequestsShown(BaseModel):
    requests: list[RequestShown]
    next_cursor: str | None


class PriorityWish(BaseModel):
    priority: int


class Views:
    """Joins what the store knows of a request with what is known in memory."""

    def __init__(self, outlook: Outlook, board: Board) -> None:
        self._outlook = outlook
        self._board = board

    def shown(self, row: RequestRecord, tags: tuple[str, ...]) -> RequestShown:
        return RequestShown(**self._fields(row, tags))

    def whole(self, view: JobView) -> RequestShownWhole:
        row = view.history.request
        tries = [AttemptShown(**attempt._asdict()) for attempt in view.history.attempts]
        fields = self._fields(row, view.tags)
        return RequestShownWhole(**fields, tries=tries, callback_url=view.callback_url, usage=_usage(row))

    def _fields(self, row: RequestRecord, tags: tuple[str, ...]) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "request_id": row.request_id,
            "type": row.type.value,
            "model": row.model_id,
            "status": row.status.value,
            "created_at": round(row.created_at, 3),
            "error_message": row.error_message,
            "error_code": row.error_code,
            "mode": row.mode.value,
            "priority": row.priority,
            "tags": list(tags),
            "attempts": row.attempts,
            "started_at": row.started_at,
            "finished_at": row.finished_at,
            "deadline_at": row.deadline_at,
        }
        return fields if row.outcome is not None else {**fields, **self._standing(row)}

    def _standing(self, row: RequestRecord) -> dict[str, Any]:
        waiting = self._outlook.of_request(row.request_id)
        if waiting is not None:
            standing = waiting.standing
            status = RequestStatus.PENDING.value
            told = {"position": standing.position, "reason": waiting.sentence, "eta_seconds": standing.eta_seconds}
            return {"status": status, **told}
        progress = self._board.progress(row.request_id)
        if progress is None or not progress.total:
            return {}
        return {"progress": ProgressShown(done=progress.done, total=progress.total, unit=progress.unit)}


def _usage(row: RequestRecord) -> dict[str, int] | None:
    if row.prompt_tokens is None and row.completion_tokens is None:
        return None
    given, made = row.prompt_tokens or 0, row.completion_tokens or 0
    return {"input_tokens": given, "output_tokens": made, "total_tokens": given + made}
