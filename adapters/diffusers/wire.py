"""What we pass on to an image engine: the paths it serves, and the headers of a request."""

from adapters.base import Call, Header

PROCESS_PATH = "/v1/images/process"
PATHS = frozenset({"/v1/images/generations", "/v1/images/edits", PROCESS_PATH})

# Found again under its id by whoever asks for the same once more.
_KEPT = ((b"x-on-disconnect", b"finish"), (b"x-if-known", b"join"))
_ACCEPT_STREAM = (b"accept", b"text/event-stream")
_ACCEPT_ANY = (b"accept", b"*/*")


def request_headers(call: Call) -> list[Header]:
    """Headers for one request; Host and framing are the connection's business. Its priority is ours: 0 to 100."""
    kept = _KEPT if call.kept else ()
    return [
        (b"content-type", call.content_type),
        (b"x-request-id", call.request_id.encode("ascii", "replace")),
        (b"x-priority", b"%d" % call.priority),
        _ACCEPT_STREAM if call.stream else _ACCEPT_ANY,
        *kept,
        *call.trace_headers,
    ]
