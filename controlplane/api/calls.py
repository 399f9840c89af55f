"""The warm path: a call from the wire to the door and on, as raw ASGI.

No framework, no copies of the body, no object per token. What a body means is its reader's business.
"""

from collections.abc import Mapping
from functools import partial

from controlplane.api.arrival import Arrival, Reader
from controlplane.api.artifacts import base_url
from controlplane.api.body import CallerGone, read_body
from controlplane.api.context import Context
from controlplane.api.jobs.submitting import Submitting
from controlplane.api.openai.engine_calls import ENGINE_PATHS, EngineReader
from controlplane.api.openai.image_calls import IMAGE_PATHS, ImageReader
from controlplane.api.reply import Receive, Reply, Scope, Send
from controlplane.api.serving import Serving
from controlplane.api.unified.asks import SUBMIT_PATH, UNIFIED_PATHS
from controlplane.api.unified.calls import UnifiedReader
from controlplane.errors import RequestRejected
from controlplane.loop.admission import Admission
from controlplane.loop.prepared import JobCall, Prepared
from controlplane.media.media import Media


class Readers:
    """Every path of a call that makes work, with its reader."""

    def __init__(self, admission: Admission, media: Media, *, private_callbacks: bool) -> None:
        unified = UnifiedReader(admission, media, private_callbacks=private_callbacks)
        self.by_path: Mapping[str, Reader] = {
            **dict.fromkeys(ENGINE_PATHS, EngineReader(admission, media)),
            **dict.fromkeys(IMAGE_PATHS, ImageReader(admission, media)),
            **dict.fromkeys((*UNIFIED_PATHS, SUBMIT_PATH), unified),
        }

    async def prepare(self, call: JobCall, upload: bytes | None) -> Prepared:
        """The call of a job, as it would have come over the wire. Raises RequestRejected."""
        return await self.by_path[call.path].read(Arrival(call.path, {}, call.body, None, begun=True, upload=upload))

    def refusal(self, path: str, rejection: RequestRejected) -> bytes:
        """The body for who is refused before there is a request."""
        return self.by_path[path].refusal(path, rejection)


class Calls:
    """ASGI application for every path of the readers, POST only."""

    def __init__(self, context: Context, readers: Readers) -> None:
        self._keyring = context.keyring
        self._admission = context.admission
        self._max_body_bytes = context.max_body_bytes
        self._readers = readers.by_path
        self._serving = Serving(context.outlook)
        self._submitting = Submitting(context)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, headers = scope["path"], dict(scope["headers"])
        reader = self._readers[path]
        try:
            client = self._keyring.identify(headers)
            body = await read_body(receive, headers, self._max_body_bytes)
            prepared = await reader.read(Arrival(path, headers, body, client.name, partial(base_url, scope)))
            if prepared.job is not None:
                claim = scope.get("idempotency")
                await self._submitting(prepared.ask, prepared.job, receive, send, claim)
                return
            exchange = self._admission.admit(prepared.ask)
        except RequestRejected as exc:
            await Reply(send).error(exc, reader.refusal(path, exc))
        except CallerGone:
            return
        else:
            await self._serving(exchange, receive, send, prepared.form(exchange.accepted))
