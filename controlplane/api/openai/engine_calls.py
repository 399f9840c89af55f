"""The warm path: an engine call from the wire to the engine and back, as raw ASGI.

No framework, no copies of the body, no object per token.
"""

from collections.abc import Mapping

from controlplane.api.body import CallerGone, read_body
from controlplane.api.context import Context
from controlplane.api.openai.chat_images import check_reads_images, find_images, inlined, may_hold_images
from controlplane.api.openai.envelope import read_envelope
from controlplane.api.reply import Receive, Reply, Scope, Send
from controlplane.api.serving import Serving
from controlplane.core.model import InferenceType
from controlplane.errors import RequestRejected
from controlplane.loop.admission import Ask

_TEXT = (InferenceType.TEXT2TEXT, InferenceType.IMAGE2TEXT)
_SEEING = (InferenceType.IMAGE2TEXT,)
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


class EngineCalls:
    """ASGI application for every path in ENGINE_PATHS, POST only."""

    def __init__(self, context: Context, serving: Serving) -> None:
        self._keyring = context.keyring
        self._admission = context.admission
        self._media = context.media
        self._serving = serving
        self._max_body_bytes = context.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, headers = scope["path"], dict(scope["headers"])
        try:
            client = self._keyring.identify(headers)
            envelope = read_envelope(headers, await read_body(receive, headers, self._max_body_bytes))
            types = ENGINE_PATHS[path]
            if may_hold_images(envelope.fields) and (images := find_images(envelope.fields)):
                check_reads_images(self._admission.find(envelope.model, types, path), images)
                envelope = await inlined(envelope, images, self._media)
                types = _SEEING if types is _TEXT else types
            ask = Ask(
                method="POST",
                path=path,
                model=envelope.model,
                types=types,
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
            await self._serving(exchange, receive, send)
