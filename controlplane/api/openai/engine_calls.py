"""Calls of the engines' own API as what the door is asked: bodies pass untouched, but for pictures and names."""

from collections.abc import Mapping

from controlplane.api.arrival import Arrival
from controlplane.api.errors import error_body
from controlplane.api.openai.chat_images import check_reads_images, find_images, inlined, may_hold_images
from controlplane.api.openai.envelope import read_envelope
from controlplane.api.reply import JSON_TYPE
from controlplane.api.serving import plain_form
from controlplane.core.model import InferenceType
from controlplane.errors import RequestRejected
from controlplane.loop.admission import Admission, Ask
from controlplane.loop.prepared import Prepared
from controlplane.media.media import Media

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


class EngineReader:
    """For every path in ENGINE_PATHS."""

    def __init__(self, admission: Admission, media: Media) -> None:
        self._admission = admission
        self._media = media

    async def read(self, arrival: Arrival) -> Prepared:
        path, headers = arrival.path, arrival.headers
        envelope = read_envelope(headers, arrival.body)
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
            content_type=headers.get(b"content-type", JSON_TYPE),
            stream=envelope.stream,
            priority=envelope.priority,
            deadline_seconds=envelope.deadline_seconds,
            client=arrival.client,
        )
        return Prepared(ask, plain_form)

    def refusal(self, path: str, rejection: RequestRejected) -> bytes:  # noqa: ARG002
        return error_body(rejection.error)
