"""The warm path: an engine call from the wire to the engine and back, as raw ASGI.

No framework, no copies of the body, no object per token. Waiting callers of a
stream are told why by SSE comments; a caller that leaves frees its place.
"""

import asyncio
from collections.abc import Mapping

from controlplane.api.auth import Keyring
from controlplane.api.body import CallerGone, read_body
from controlplane.api.openai.envelope import read_envelope
from controlplane.api.reply import Message, Receive, Reply, Send
from controlplane.core.model import InferenceType, Outcome
from controlplane.errors import RequestRejected
from controlplane.loop.admission import Admission, Ask
from controlplane.loop.exchange import Exchange
from controlplane.loop.lingering import Lingering
from controlplane.loop.outlook import Outlook

_CLIENT_CLOSED_REQUEST = 499
# Nobody gains from hearing sooner that a caller left, and most calls are over by then.
_WATCH_AFTER_SECONDS = 0.1
_TEXT = (InferenceType.TEXT2TEXT, InferenceType.IMAGE2TEXT)
_EMBEDDING = (InferenceType.EMBEDDING,)
_ANY: tuple[InferenceType, ...] = ()

# Which kinds of model each path is for. Whether a model's engine really has the path is the adapter's knowledge.
ENGINE_PATHS: Mapping[str, tuple[InferenceType, ...]] = {
    "/v1/chat/completions": _TEXT,
    "/v1/completions": _TEXT,
    "/v1/responses": _TEXT,
    "/v1/messages": _TEXT,
    "/v1/messages/count_tokens": _TEXT,
    "/v1/embeddings": _EMBEDDING,
    "/pooling": _EMBEDDING,
    "/score": _EMBEDDING,
    "/v1/score": _EMBEDDING,
    "/rerank": _EMBEDDING,
    "/v1/rerank": _EMBEDDING,
    "/v2/rerank": _EMBEDDING,
    "/classify": _EMBEDDING,
    "/tokenize": _ANY,
    "/detokenize": _ANY,
}


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


class EngineCalls:
    """ASGI application for every path in ENGINE_PATHS, POST only."""

    def __init__(self, keyring: Keyring, admission: Admission, outlook: Outlook, max_body_bytes: int) -> None:
        self._keyring = keyring
        self._admission = admission
        self._outlook = outlook
        self._max_body_bytes = max_body_bytes
        self._lingering = Lingering(_WATCH_AFTER_SECONDS)

    async def __call__(self, path: str, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        try:
            client = self._keyring.identify(headers)
            envelope = read_envelope(headers, await read_body(receive, headers, self._max_body_bytes))
            ask = Ask(
                method="POST",
                path=path,
                model=envelope.model,
                types=ENGINE_PATHS[path],
                body_for=envelope.body_for,
                content_type=headers.get(b"content-type", b"application/json"),
                stream=envelope.stream,
                priority=envelope.priority,
                deadline_seconds=envelope.deadline_seconds,
                client=client.name,
            )
            exchange = self._admission.admit(ask)
        except RequestRejected as exc:
            await Reply(send).error(exc)
        except CallerGone:
            return
        else:
            await self._serve(exchange, receive, send)

    async def _serve(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        reply = Reply(send, exchange.accepted.head.request_id)
        watch = _Watch(receive, reply)
        self._lingering.enter(watch, watch.begin)
        try:
            if exchange.accepted.call.stream:
                await self._stream(exchange, reply)
            else:
                await self._whole(exchange, reply)
        except RequestRejected as exc:
            exchange.close(_outcome(exc), exc, exc.error.status)
            await reply.error(exc)
        except asyncio.CancelledError:
            if not watch.gone:
                raise
            exchange.close(Outcome.CANCELLED, status=_CLIENT_CLOSED_REQUEST)
            _forgive_cancellation()
        finally:
            self._lingering.leave(watch)
            watch.stop()
            # Only reached open when the server itself is being ended.
            exchange.close(Outcome.INTERRUPTED, status=503)

    async def _whole(self, exchange: Exchange, reply: Reply) -> None:
        answer = await exchange.whole()
        exchange.close(Outcome.SUCCEEDED)
        await reply.whole(answer.status, answer.body, answer.content_type)

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


def _outcome(rejection: RequestRejected) -> Outcome:
    return Outcome.EXPIRED if rejection.error.code == "deadline_exceeded" else Outcome.FAILED


def _forgive_cancellation() -> None:
    """The cancellation was our own way to stop waiting; the server's task goes on."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
