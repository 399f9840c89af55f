"""The output of a batch: one line for each of its input, in the file of the good ones or in that of the others.

Written as a whole when the batch has ended, from what the store has, so that a death in between leaves nothing twice.
"""

import asyncio
from collections.abc import Sequence
from secrets import token_hex

import orjson

from controlplane.core.model import Outcome
from controlplane.media.file_folder import FileFolder, Writing
from controlplane.store.batch_records import BatchRecord, BatchStatus, FileRecord, LineEnd, Purpose

_NOT_DONE = {
    BatchStatus.CANCELLED: ("batch_cancelled", "the batch was cancelled before this request was executed"),
    BatchStatus.EXPIRED: ("batch_expired", "the request could not be executed before the completion window expired"),
}


def new_file_id() -> str:
    return f"file-{token_hex(14)[:27]}"


class OutputFile:
    """One of the two; there is none as long as nothing was written."""

    def __init__(self, folder: FileFolder, suffix: str) -> None:
        self._folder = folder
        self._suffix = suffix
        self._writing: Writing | None = None
        self._file_id = new_file_id()
        self.lines = 0

    def write(self, lines: Sequence[bytes]) -> None:
        if lines:
            if self._writing is None:
                self._writing = self._folder.begin(self._file_id)
            self._writing.write(b"".join(lines))
            self.lines += len(lines)

    def keep(self, batch: BatchRecord, at: float) -> FileRecord | None:
        """On disk; the row that belongs to it."""
        if self._writing is None:
            return None
        self._writing.keep()
        return FileRecord(
            file_id=self._file_id,
            client=batch.client,
            purpose=Purpose.BATCH_OUTPUT,
            filename=f"{batch.batch_id}_{self._suffix}.jsonl",
            bytes=self._writing.size_bytes,
            created_at=at,
            expires_at=at + batch.output_expires_seconds,
        )

    def remove(self) -> None:
        """Whether it was kept or not."""
        if self._writing is not None:
            self._writing.drop()
            self._folder.remove(self._file_id)


class OutputFiles:
    """Both files of one batch. `status` is the last one of the batch."""

    def __init__(self, folder: FileFolder, status: BatchStatus) -> None:
        self.output = OutputFile(folder, "output")
        self.errors = OutputFile(folder, "error")
        self._status = status

    async def write(self, ends: Sequence[LineEnd]) -> None:
        """Raises StoreFailure."""
        await asyncio.to_thread(self._write, ends)

    def _write(self, ends: Sequence[LineEnd]) -> None:
        self.output.write([_line(end, self._status) for end in ends if _is_good(end)])
        self.errors.write([_line(end, self._status) for end in ends if not _is_good(end)])

    def remove(self) -> None:
        self.output.remove()
        self.errors.remove()


def _is_good(end: LineEnd) -> bool:
    return end.outcome is Outcome.SUCCEEDED


def _line(end: LineEnd, status: BatchStatus) -> bytes:
    response, error = None, None
    if end.http_status is not None and end.outcome not in (Outcome.CANCELLED, Outcome.EXPIRED):
        response = {"status_code": end.http_status, "request_id": end.request_id or "", "body": _body(end)}
    else:
        error = _error(end, status)
    # The line's id is the request's, so that each can be found by the other.
    named = (end.request_id or f"req_{token_hex(13)[:26]}").removeprefix("req_")
    line = {"id": f"batch_req_{named}", "custom_id": end.custom_id, "response": response, "error": error}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _body(end: LineEnd) -> object:
    if end.body is not None:
        return _read(end.body)
    kind = "server_error" if (end.http_status or 500) >= 500 else "invalid_request_error"
    return {"error": {"message": end.error_message, "type": kind, "param": None, "code": end.error_code}}


def _read(body: bytes) -> object:
    """What an engine answered may be written over several lines, and need not be JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")


def _error(end: LineEnd, status: BatchStatus) -> dict[str, str]:
    not_done = BatchStatus.EXPIRED if end.outcome is Outcome.EXPIRED else BatchStatus.CANCELLED
    code, message = _NOT_DONE[not_done if end.outcome is not None else status]
    return {"code": code, "message": message}
