"""What becomes of a line when it is taken: a job at the lowest priority, or the answer of the door that refused it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import orjson

from controlplane.core.model import BACKGROUND_PRIORITY, RequestHead
from controlplane.errors import RequestRejected
from controlplane.loop import rejections
from controlplane.loop.admission import Admission, Ask
from controlplane.loop.batches.input_file import Part, read_line
from controlplane.loop.prepared import JobCall
from controlplane.store.batch_records import BatchRecord, TakenLine, Taking
from controlplane.store.records import JobDraft


class AskOf(Protocol):
    """A call as the door is asked, without anything being fetched for it."""

    def __call__(self, path: str, body: bytes, client: str | None) -> Ask:
        """Raises RequestRejected."""
        ...


class Taken(NamedTuple):
    """Lines as the store takes them, and the heads of their jobs for the line of waiting."""

    taking: Taking
    heads: Sequence[RequestHead]


class Taker:
    """Makes jobs of lines."""

    def __init__(self, admission: Admission, ask_of: AskOf) -> None:
        self._admission = admission
        self._ask_of = ask_of

    def taken(self, batch: BatchRecord, part: Part) -> Taken:
        """Raises RequestRejected when the door is shut for good."""
        lines: list[TakenLine] = []
        heads: list[RequestHead] = []
        for raw in part.lines:
            custom_id, body = read_line(raw, batch.endpoint)
            try:
                draft, head = self._draft(batch, body)
            except RequestRejected as exc:
                if not self._admission.is_open:
                    raise
                lines.append(TakenLine(custom_id, refusal=(exc.error.status, _told(exc))))
            else:
                lines.append(TakenLine(custom_id, draft))
                heads.append(head)
        return Taken(Taking(batch.batch_id, batch.read_bytes, part.end, lines), heads)

    def _draft(self, batch: BatchRecord, body: bytes) -> tuple[JobDraft, RequestHead]:
        ask = self._ask_of(batch.endpoint, body, batch.client)
        if ask.stream:
            message = "the lines of a batch are not answered as streams; leave out stream"
            raise rejections.invalid(message, "stream", "unsupported_value")
        row, head = self._admission.admit_job(ask)
        # All of one age: then no model has the older line, and each is drained before the next one is loaded.
        row = row._replace(priority=BACKGROUND_PRIORITY, created_at=batch.created_at, deadline_at=batch.expires_at)
        head = replace(head, priority=row.priority, enqueued_at=row.created_at, deadline_at=row.deadline_at)
        payload = JobCall(batch.endpoint, body).payload()
        return JobDraft(row, payload, tags=(batch.batch_id,), rows=head.rows, batch_key=head.key), head


def _told(rejection: RequestRejected) -> bytes:
    error = rejection.error
    shown = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return orjson.dumps({"error": shown})
