"""Between a connection and its request: the headers, and what it means that the caller hangs up.

A lost caller cancels the request, unless it said `X-On-Disconnect: finish`: then the result waits under its id.
Who asks again with `X-If-Known: join` gets that one.
"""

import asyncio
import re
import uuid
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from engines.diffusers.live import LiveRequest, LiveRequests
from engines.diffusers.refusals import CANCELLED_STATUS, invalid
from engines.diffusers.results import Outcome
from engines.diffusers.streaming import frames
from engines.diffusers.wire import IF_KNOWN, ON_DISCONNECT, PRIORITY, REQUEST_ID

DEFAULT_PRIORITY = 50
_ID = re.compile(r"[A-Za-z0-9._:~-]{1,128}")


@dataclass(frozen=True, slots=True)
class Caller:
    """What the headers say."""

    request_id: str
    priority: int
    finish_when_gone: bool
    join: bool = False


def caller(request: Request) -> Caller:
    """Raises `Refused` for a header that cannot be used."""
    wish = request.headers.get(ON_DISCONNECT, "cancel")
    if wish not in ("cancel", "finish"):
        raise invalid('must be "cancel" or "finish"', ON_DISCONNECT)
    if_known = request.headers.get(IF_KNOWN)
    if if_known not in (None, "join"):
        raise invalid('must be "join", or left out', IF_KNOWN)
    return Caller(_request_id(request), _priority(request), wish == "finish", if_known == "join")


def _request_id(request: Request) -> str:
    given = request.headers.get(REQUEST_ID)
    if given is None:
        return f"req-{uuid.uuid4().hex}"
    if not _ID.fullmatch(given):
        raise invalid("must be 1 to 128 letters, digits or . _ : ~ -", REQUEST_ID)
    return given


def _priority(request: Request) -> int:
    given = request.headers.get(PRIORITY)
    if given is None:
        return DEFAULT_PRIORITY
    if not re.fullmatch(r"[0-9]{1,3}", given) or int(given) > 100:
        raise invalid("must be a whole number from 0 to 100, higher first", PRIORITY)
    return int(given)


async def joined(request: Request, requests: LiveRequests, who: Caller) -> Response | None:
    """The answer of the work that is known under this id already; None: there is none, or its caller wants its own."""
    known = requests.known(who.request_id) if who.join else None
    if known is None:
        return None
    await request.body()
    return answer(known, who) if isinstance(known, Outcome) else await whole(request, known, who)


async def whole(request: Request, live: LiveRequest, who: Caller) -> Response:
    """Wait for the outcome, or for the caller to go away."""
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({live.task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        _left(live, who)
    if live.task.done():
        return answer(live.task.result(), who)
    return Response(status_code=CANCELLED_STATUS)  # nobody reads it


def streamed(live: LiveRequest, shown: "asyncio.Queue[bytes | None]", who: Caller) -> Response:
    """Show pictures as they come; a caller who hangs up is noticed by the response."""
    content = frames(live, shown, lambda: _left(live, who))
    headers = {REQUEST_ID: who.request_id, "cache-control": "no-store"}
    return StreamingResponse(content, media_type="text/event-stream", headers=headers)


def answer(outcome: Outcome, who: Caller) -> Response:
    headers = {**outcome.headers, REQUEST_ID: who.request_id}
    return Response(outcome.content, outcome.status, headers, "application/json")


def _left(live: LiveRequest, who: Caller) -> None:
    if not live.task.done() and not who.finish_when_gone:
        live.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
