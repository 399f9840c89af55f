"""A line of a batch as the door is asked; what its body refers to is fetched when it runs."""

from collections.abc import Mapping

from controlplane.api.openai.engine_calls import ENGINE_PATHS
from controlplane.api.openai.envelope import read_envelope
from controlplane.api.openai.image_calls import IMAGE_PATHS
from controlplane.api.reply import JSON_TYPE
from controlplane.core.model import InferenceType
from controlplane.loop.admission import Ask

BATCH_ENDPOINTS: Mapping[str, tuple[InferenceType, ...]] = {
    **{
        path: ENGINE_PATHS[path]
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
    },
    **IMAGE_PATHS,
}


def line_ask(path: str, body: bytes, client: str | None) -> Ask:
    """For every path in BATCH_ENDPOINTS. Raises RequestRejected."""
    drawn = InferenceType.TEXT2IMAGE.value if path in IMAGE_PATHS else None
    envelope = read_envelope({}, body, drawn)
    return Ask(
        method="POST",
        path=path,
        model=envelope.model,
        types=BATCH_ENDPOINTS[path],
        body_for=envelope.body_for,
        content_type=JSON_TYPE,
        stream=envelope.stream,
        priority=None,
        deadline_seconds=None,
        client=client,
        fields=envelope.fields,
    )
