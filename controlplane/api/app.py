"""The ASGI application: engine calls take the bare path, everything else goes through FastAPI.

Knows which scope each path needs; the two ways share keys, errors and context.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException

from adapters.base import NormalError
from controlplane.api.admin.routes import admin_router
from controlplane.api.artifacts import artifacts_router
from controlplane.api.calls import Calls, Readers
from controlplane.api.context import Context
from controlplane.api.errors import error_body, retry_headers, unavailable
from controlplane.api.jobs.routes import jobs_router
from controlplane.api.jobs.stats import stats_router
from controlplane.api.keyed import Keyed
from controlplane.api.openai.batches import batches_router
from controlplane.api.openai.engine_calls import ENGINE_PATHS
from controlplane.api.openai.files import files_router
from controlplane.api.openai.image_calls import IMAGE_PATHS
from controlplane.api.openai.models import models_router
from controlplane.api.probes import probes_router
from controlplane.api.reply import Receive, Send
from controlplane.api.unified.asks import UNIFIED_PATHS
from controlplane.api.unified.schema import unified_paths
from controlplane.errors import RequestRejected, StoreFailure
from controlplane.settings import Scope

_OPEN_PATHS = frozenset({"/health", "/ready"})
_ADMIN_PREFIXES = ("/admin", "/metrics", "/docs", "/openapi.json")

_SEEN_BY_PAGES = ("x-request-id", "retry-after", "x-should-retry")

_BARE_PATHS = ENGINE_PATHS.keys() | IMAGE_PATHS.keys() | UNIFIED_PATHS.keys()

Asgi = Callable[[Any, Receive, Send], Awaitable[None]]


def application(context: Context, readers: Readers) -> Asgi:
    """The whole service as one ASGI application."""
    keys, keyring = context.store.keys, context.keyring
    calls = Keyed(Calls(context, readers), keys, keyring, context.max_body_bytes, readers.refusal)
    rest: Asgi = _framework(context)

    async def app(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in readers.by_path:
            await calls(scope, receive, send)
        else:
            await rest(scope, receive, send)

    return _with_cors(app, context.cors_origins) if context.cors_origins else app


def _with_cors(app: Asgi, origins: tuple[str, ...]) -> Asgi:
    """Around everything, engine calls included: a browser withholds any answer that does not name its origin."""
    return CORSMiddleware(app, list(origins), allow_methods=("*",), allow_headers=("*",), expose_headers=_SEEN_BY_PAGES)


class _Rest(FastAPI):
    """Describes the unified API too, which it does not route."""

    def openapi(self) -> dict[str, Any]:
        described = super().openapi()
        for path, methods in unified_paths().items():
            described["paths"].setdefault(path, {}).update(methods)
        return described


def _framework(context: Context) -> FastAPI:
    app = _Rest(title="Inference Manager", version=context.version, docs_url="/docs", redoc_url=None)

    @app.middleware("http")
    async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            _check_scope(context, request)
        except RequestRejected as exc:
            return _response(exc)
        return await go_on(request)

    app.add_exception_handler(RequestRejected, _on_rejected)
    app.add_exception_handler(StoreFailure, _on_store_failure)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    openai = (models_router, files_router, batches_router)
    for router in (probes_router, *openai, artifacts_router, jobs_router, stats_router, admin_router):
        app.include_router(router(context))
    return app


def _check_scope(context: Context, request: Request) -> None:
    path = request.url.path
    if path in _OPEN_PATHS:
        return
    scope = Scope.ADMIN if path.startswith(_ADMIN_PREFIXES) else Scope.USER
    context.keyring.require(dict(request.scope["headers"]), scope)


def _response(rejection: RequestRejected) -> Response:
    headers = {name.decode(): value.decode() for name, value in retry_headers(rejection)}
    return Response(error_body(rejection.error), rejection.error.status, headers, "application/json")


async def _on_rejected(_: Request, exc: Exception) -> Response:
    if not isinstance(exc, RequestRejected):
        raise exc
    return _response(exc)


async def _on_store_failure(_: Request, exc: Exception) -> Response:
    return _response(unavailable(f"the store cannot take this now: {exc}", 2.0))


async def _on_invalid(_: Request, exc: Exception) -> Response:
    if not isinstance(exc, RequestValidationError):
        raise exc
    first = exc.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or "body"
    return _response(RequestRejected(NormalError(400, f"{place}: {first['msg']}", "invalid_request_error", place)))


async def _on_http(request: Request, exc: Exception) -> Response:
    if not isinstance(exc, HTTPException):
        raise exc
    status, detail, extra = exc.status_code, exc.detail, dict(exc.headers or {})
    if request.url.path in _BARE_PATHS:
        # Routed apart from the framework, so that it knows nothing of them.
        status, detail, extra = 405, "Method Not Allowed; use POST", {"allow": "POST"}
    message = f"{request.method} {request.url.path}: {detail}"
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    response = _response(RequestRejected(NormalError(status, message, kind)))
    response.headers.update(extra)
    return response
