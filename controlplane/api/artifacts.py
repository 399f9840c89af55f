"""GET /api/v1/artifacts/{name}: files of results, and how a picture of an answer becomes one."""

from fastapi import APIRouter
from fastapi.responses import FileResponse

from adapters.errors import EngineProtocolError
from adapters.tasks import picture_type
from controlplane.api.context import Context
from controlplane.api.errors import unavailable
from controlplane.api.reply import Scope
from controlplane.errors import StoreFailure
from controlplane.loop import rejections
from controlplane.media.artifacts import Artifacts

_PREFIX = "/api/v1/artifacts"
# A name is made of the content, so what it names never changes; `private`: it may need a key.
_HEADERS = {
    "cache-control": "private, max-age=31536000, immutable",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
}


def artifacts_router(context: Context) -> APIRouter:
    router = APIRouter(prefix=_PREFIX, tags=["artifacts"])
    artifacts = context.media.artifacts

    @router.api_route("/{name}", methods=["GET", "HEAD"], response_class=FileResponse)
    async def artifact(name: str) -> FileResponse:
        """A picture of a result; ranges are served."""
        return artifact_response(artifacts, name)

    return router


def artifact_response(artifacts: Artifacts, name: str) -> FileResponse:
    """Raises RequestRejected (404) or StoreFailure."""
    path, content_type = artifacts.open(name)
    return FileResponse(path, media_type=content_type, headers=_HEADERS)


def base_url(scope: Scope) -> str:
    """Where the caller reached us, without a path; empty when it did not say."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    return f"{scope['scheme']}://{host.decode('latin-1')}" if host else ""


async def kept(artifacts: Artifacts, content: bytes) -> str:
    """Keep a picture that an engine made; its path under our address. Raises RequestRejected."""
    try:
        artifact = await artifacts.put(content, picture_type(content))
    except EngineProtocolError as exc:
        raise rejections.aborted(str(exc)) from exc
    except StoreFailure as exc:
        raise unavailable(str(exc), 5.0) from exc
    return f"{_PREFIX}/{artifact.name}"
