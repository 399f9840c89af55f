"""What we pass on to vLLM: the paths it serves, and the headers of a request.

Stored responses (`GET /v1/responses/{id}` and its like) are left out: vLLM keeps them in one replica's memory only.
"""

from adapters.base import Call, Header

PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/tokenize",
        "/detokenize",
        "/pooling",
        "/classify",
        "/score",
        "/v1/score",
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
    }
)

_ACCEPT_STREAM = (b"accept", b"text/event-stream")
_ACCEPT_ANY = (b"accept", b"*/*")
# vLLM serves the lower number first; ours is the other way round.
_PRIORITY = tuple((b"x-vllm-priority", b"%d" % (100 - priority)) for priority in range(101))


def request_headers(call: Call) -> list[Header]:
    """Headers for one request; Host and framing are the connection's business. `call.priority` is 0 to 100."""
    return [
        (b"content-type", call.content_type),
        (b"x-request-id", call.request_id.encode("ascii", "replace")),
        _PRIORITY[call.priority],
        _ACCEPT_STREAM if call.stream else _ACCEPT_ANY,
        *call.trace_headers,
    ]
