"""Accepts jobs: on disk with all that belongs to them before anybody is told, and in line right after.

Whether the call is any good is decided as for every other call.
"""

import asyncio
from functools import partial
from typing import NamedTuple

from controlplane.core.model import RequestHead
from controlplane.loop import rejections
from controlplane.loop.admission import Admission, Ask
from controlplane.loop.dispatcher import Dispatcher
from controlplane.loop.prepared import JobTerms
from controlplane.media.artifacts import Artifacts
from controlplane.store.records import IdempotencyClaim, JobDraft, RequestAccepted
from controlplane.store.store import Store


class Receipt(NamedTuple):
    """What was accepted under which id. `again`: it was accepted before, under the same idempotency key."""

    request_id: str
    row: RequestAccepted
    again: bool


class JobDoor:
    """Accepts or refuses; waits for the disk only."""

    def __init__(self, admission: Admission, store: Store, dispatcher: Dispatcher, artifacts: Artifacts) -> None:
        self._admission = admission
        self._store = store
        self._dispatcher = dispatcher
        self._artifacts = artifacts

    async def accept(self, ask: Ask, terms: JobTerms, claim: IdempotencyClaim | None = None) -> Receipt:
        """Raises RequestRejected, StoreFailure, or KeyReused."""
        if ask.stream:
            message = "a job is not answered as a stream; leave out stream, and follow its events instead"
            raise rejections.invalid(message, "stream", "unsupported_value")
        row, head = self._admission.admit_job(ask)
        call = terms.call
        if terms.picture is not None:
            artifact = await self._artifacts.put_for(head.request_id, *terms.picture)
            call = call._replace(upload=artifact.name)
        draft = JobDraft(
            accepted=row,
            payload=call.payload(),
            callback=terms.callback,
            tags=terms.tags,
            idempotency=claim,
            rows=head.rows,
            batch_key=head.key,
            pictures=() if call.upload is None else (call.upload,),
        )
        accepting = self._store.accept_job(draft)
        accepting.add_done_callback(partial(self._accepted, head))
        # Shielded: a commit that is under way is not taken back because its caller goes.
        request_id = await asyncio.shield(accepting)
        return Receipt(request_id, row, request_id != head.request_id)

    def _accepted(self, head: RequestHead, accepting: "asyncio.Future[str]") -> None:
        if accepting.exception() is None and accepting.result() == head.request_id:
            self._dispatcher.enqueue(head)
        else:
            self._artifacts.let_go(head.request_id)
