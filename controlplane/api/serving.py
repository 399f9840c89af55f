"""Drives an accepted exchange onto the wire: whole or as a stream, to its one outcome, or until the caller leaves.

Waiting callers of a stream are told why by SSE comments. What a whole answer
or a failure looks like to the caller may be given; streams pass as they come.
"""

import asyncio

from controlplane.api.errors import error_body
from controlplane.api.reply import Message, Receive, Reply, Send
from controlplane.core.model import Outcome
from controlplane.errors import RequestRejected
from controlplane.loop.exchange import Accepted, Answer, Exchange
from controlplane.loop.lingering import Lingering
from controlplane.loop.outlook import Outlook
from controlplane.loop.prepared import AnswerForm

_CLIENT_CLOSED_REQUEST = 499
# Nobody gains from hearing sooner that a caller left, and most calls are over by then.
_WATCH_AFTER_SECONDS = 0.1


async def _as_it_came(answer: Answer) -> Answer:
    return answer


def openai_error(rejection: RequestRejected) -> bytes:
    return error_body(rejection.error)


PLAIN = AnswerForm(_as_it_came, openai_error)


def plain_form(_: Accepted) -> AnswerForm:
    """As the engine answers."""
    return PLAIN


class _Watch:
    """From `begin` on listens for the caller leaving; then the task that serves it is cancelled."""

    def __init__(self, receive: Receive, reply: Reply) -> None:
        self.gone = False
        self._receive = receive
        self._reply = reply
        self._served = asyncio.current_task()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.create_task(self._listen())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _listen(self) -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await self._receive()
        if not self._reply.ended and self._served is not None:
            self.gone = True
            self._served.cancel()


class Serving:
    """One for the service; a call of it serves one exchange and ends it."""

    def __init__(self, outlook: Outlook) -> None:
        self._outlook = outlook
        self._lingering = Lingering(_WATCH_AFTER_SECONDS)

    async def __call__(self, exchange: Exchange, receive: Receive, send: Send, form: AnswerForm = PLAIN) -> None:
        reply = Reply(send, exchange.accepted.head.request_id)
        watch = _Watch(receive, reply)
        self._lingering.enter(watch, watch.begin)
        try:
            if exchange.accepted.call.stream:
                await self._stream(exchange, reply)
            else:
                await _whole(exchange, reply, form)
        except RequestRejected as exc:
            exchange.close(_outcome(exc), exc, exc.error.status)
            await reply.error(exc, form.failure(exc))
        except asyncio.CancelledError:
            if not watch.gone:
                raise
            exchange.leave(_CLIENT_CLOSED_REQUEST)
            _forgive_cancellation()
        finally:
            self._lingering.leave(watch)
            watch.stop()
            # Only reached open when the server itself is being ended.
            exchange.close(Outcome.INTERRUPTED, status=503)

    async def _stream(self, exchange: Exchange, reply: Reply) -> None:
        request_id = exchange.accepted.head.request_id

        async def tell() -> None:
            await reply.comment(f"{request_id} waits, {self._outlook.line(request_id)}")

        content_type = await exchange.open(tell)
        if not reply.started:
            await reply.begin_stream(content_type)
        while (chunk := await exchange.next_chunk()) is not None:
            await reply.chunk(chunk)
        exchange.close(Outcome.SUCCEEDED)
        await reply.end()


async def _whole(exchange: Exchange, reply: Reply, form: AnswerForm) -> None:
    answer = await exchange.whole()
    if form.finish is not _as_it_came:
        answer = await form.finish(answer)
    exchange.close(Outcome.SUCCEEDED)
    await reply.whole(answer.status, answer.body, answer.content_type)


def _outcome(rejection: RequestRejected) -> Outcome:
    return Outcome.EXPIRED if rejection.error.code == "deadline_exceeded" else Outcome.FAILED


def _forgive_cancellation() -> None:
    """The cancellation was our own way to stop waiting; the server's task goes on."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
