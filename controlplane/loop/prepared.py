"""A call as it stands before the door: what is asked of an engine, and what its caller gets of the answer.

Read from the wire or from a payload; the same for callers who wait and for jobs.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import orjson

from controlplane.errors import RequestRejected
from controlplane.loop.admission import Ask
from controlplane.loop.exchange import Accepted, Answer
from controlplane.store.records import CallbackDraft


class AnswerForm(NamedTuple):
    """How a whole answer is made of the engine's (may raise RequestRejected), and the body of a failure."""

    finish: Callable[[Answer], Awaitable[Answer]]
    failure: Callable[[RequestRejected], bytes]


class JobCall(NamedTuple):
    """What a job is to do: the call as it was or could have been sent. `upload`: the artifact with its picture."""

    path: str
    body: bytes
    upload: str | None = None

    def payload(self) -> bytes:
        """As JSON, `body` inside as it is."""
        return orjson.dumps({"path": self.path, "upload": self.upload, "body": orjson.Fragment(self.body)})


def read_payload(payload: bytes) -> JobCall:
    """What `JobCall.payload` wrote."""
    fields = orjson.loads(payload)
    return JobCall(fields["path"], orjson.dumps(fields["body"]), fields["upload"])


class JobTerms(NamedTuple):
    """What makes a call a job. `picture`: what goes into an artifact before it is accepted.

    `wait_seconds`: how long its caller would like to wait for the answer.
    """

    call: JobCall
    picture: tuple[bytes, str] | None = None
    callback: CallbackDraft | None = None
    tags: tuple[str, ...] = ()
    wait_seconds: float = 0.0


class Prepared(NamedTuple):
    """`form` is made once there is a request to name in it; `job` None: its caller waits for it.

    `gathered`: the engine's answer is a stream that is gathered into the whole one, whatever the caller gets.
    """

    ask: Ask
    form: Callable[[Accepted], AnswerForm]
    job: JobTerms | None = None
    gathered: bool = False


class Prepare(Protocol):
    async def __call__(self, call: JobCall, upload: bytes | None) -> Prepared:
        """Raises RequestRejected when it cannot be done as it is."""
        ...
