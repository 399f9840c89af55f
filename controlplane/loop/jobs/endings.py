"""The end of a job: its row, its result and what its callback is told, written until the store has it.

Whoever holds something for the job lets go of it here.
"""

import asyncio
from dataclasses import dataclass

import orjson
import structlog

from controlplane.core.model import Outcome
from controlplane.errors import RequestRejected, StoreFailure
from controlplane.loop.jobs.board import Board
from controlplane.loop.telemetry import Telemetry
from controlplane.media.artifacts import Artifacts
from controlplane.ports import Clock
from controlplane.store.errors import RowRefused
from controlplane.store.records import AttemptRecord, JobEnd, RequestAccepted, RequestFinished
from controlplane.store.store import Store

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 1.0


def ending(
    row: RequestAccepted, outcome: Outcome, error: RequestRejected, at: float, tries: tuple[AttemptRecord, ...] = ()
) -> RequestFinished:
    """The end of a job that got no answer."""
    return RequestFinished(
        accepted=row,
        outcome=outcome,
        finished_at=at,
        attempts=tries,
        http_status=error.error.status,
        error_code=error.error.code,
        error_message=error.error.message,
    )


@dataclass(frozen=True, slots=True)
class Endings:
    """Ends jobs, each once."""

    store: Store
    board: Board
    artifacts: Artifacts
    telemetry: Telemetry
    clock: Clock

    async def write(self, row: RequestFinished, result: bytes | None = None) -> bool:
        """False when it had ended already. Waits as long as the disk is away; nothing is lost meanwhile."""
        while True:
            try:
                ended = await self.write_now(row, result)
            except RowRefused as exc:
                log.error("job.result_refused", request=row.accepted.request_id, reason=str(exc))
                row, result = _unwritable(row, exc), None
            except StoreFailure as exc:
                log.warning("job.end_delayed", request=row.accepted.request_id, reason=str(exc))
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return ended

    async def write_now(self, row: RequestFinished, result: bytes | None = None) -> bool:
        """Like `write`, but raises StoreFailure."""
        request_id = row.accepted.request_id
        ended = await self.store.finish_job(JobEnd(row, result, _notice(row, result)))
        if ended:
            self.artifacts.let_go(request_id)
        self.board.end(request_id)
        return ended

    async def write_unanswered(self, row: RequestAccepted, outcome: Outcome, error: RequestRejected) -> bool:
        """The end of a job that no exchange counts. Raises StoreFailure."""
        ended = await self.write_now(ending(row, outcome, error, self.clock()))
        if ended:
            self.telemetry.model(row.model_id).outcomes[outcome] += 1
        return ended


def _unwritable(row: RequestFinished, why: RowRefused) -> RequestFinished:
    message = f"the answer cannot be kept: {why}".replace("\0", "")
    row = row._replace(outcome=Outcome.FAILED, http_status=500, error_code="result_refused", error_message=message)
    return row._replace(attempts=tuple(attempt._replace(error=None) for attempt in row.attempts))


def _notice(row: RequestFinished, result: bytes | None) -> bytes:
    """What a callback is told."""
    asked, status = row.accepted, row.outcome.status.value
    told = {
        "request_id": asked.request_id,
        "type": asked.type.value,
        "model": asked.model_id,
        "status": status,
        "created_at": round(asked.created_at, 3),
        "finished_at": round(row.finished_at, 3),
        "error_code": row.error_code,
        "error_message": row.error_message,
        "result": None if result is None else orjson.Fragment(result),
    }
    return orjson.dumps({"type": f"request.{status}", "timestamp": round(row.finished_at, 3), "data": told})
