"""Takes a job in: 202 once it is on disk, or its answer if that comes within the time its caller would like to wait."""

import asyncio

import orjson
import structlog

from controlplane.api.context import Context
from controlplane.api.errors import Headers, unavailable
from controlplane.api.jobs.results import Results
from controlplane.api.reply import Receive, Reply, Send
from controlplane.errors import StoreFailure
from controlplane.loop import rejections
from controlplane.loop.admission import Ask
from controlplane.loop.jobs.door import Receipt
from controlplane.loop.prepared import JobTerms
from controlplane.store.errors import KeyReused
from controlplane.store.records import IdempotencyClaim

log = structlog.get_logger(__name__)

REQUESTS_PATH = "/api/v1/requests"


class Submitting:
    """One for the service."""

    def __init__(self, context: Context) -> None:
        self._door = context.jobs.door
        self._results = Results(context)

    async def __call__(
        self, ask: Ask, terms: JobTerms, receive: Receive, send: Send, claim: IdempotencyClaim | None = None
    ) -> None:
        """Raises RequestRejected before anything was accepted."""
        receipt = await self._accepted(ask, terms, claim)
        reply = Reply(send, receipt.request_id)
        answer = None
        if terms.wait_seconds > 0:
            answer = await self._answer_in_time(receipt.request_id, terms.wait_seconds, receive)
        if answer is not None:
            await reply.whole(*answer)
        else:
            await reply.whole(202, _accepted_body(receipt), extra=_location(receipt.request_id))

    async def _accepted(self, ask: Ask, terms: JobTerms, claim: IdempotencyClaim | None) -> Receipt:
        try:
            return await self._door.accept(ask, terms, claim)
        except KeyReused as exc:
            raise rejections.invalid(str(exc), "Idempotency-Key", "idempotency_key_reused", 422) from exc
        except StoreFailure as exc:
            raise unavailable(f"the store cannot take this now: {exc}", 2.0) from exc

    async def _answer_in_time(self, request_id: str, seconds: float, receive: Receive) -> tuple[int, bytes] | None:
        """Status and body, or None: the job is accepted, whatever keeps us from telling how it ended."""
        try:
            if await self._ended_in_time(request_id, seconds, receive):
                return await self._results.of(request_id)
        except StoreFailure as exc:
            log.warning("job.not_waited_for", request=request_id, reason=str(exc))
        return None

    async def _ended_in_time(self, request_id: str, seconds: float, receive: Receive) -> bool:
        """Until it has ended, the time is over, or the caller leaves, which ends nothing but the waiting."""
        waiting = asyncio.create_task(self._results.wait(request_id))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((waiting, leaving), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
            return waiting.done()
        finally:
            waiting.cancel()
            leaving.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _accepted_body(receipt: Receipt) -> bytes:
    row, path = receipt.row, f"{REQUESTS_PATH}/{receipt.request_id}"
    return orjson.dumps(
        {
            "request_id": receipt.request_id,
            "type": row.type.value,
            "model": row.model_id,
            "status": "pending",
            "created_at": round(row.created_at, 3),
            "error_message": None,
            "priority": row.priority,
            "links": {"self": path, "result": f"{path}/result", "events": f"{path}/events"},
        }
    )


def _location(request_id: str) -> Headers:
    return [(b"location", f"{REQUESTS_PATH}/{request_id}".encode())]
