"""The gate as an ASGI application: judge, look whose container it is, pass on as it comes."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from controlplane.gate.policy import Asked, judge
from controlplane.gate.rules import Rules

_log = structlog.get_logger(__name__)
_MAX_BODY_BYTES = 1024 * 1024
_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
# Hop-by-hop, and what the server writes itself.
_NOT_PASSED_ON = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "date", "server"}
)


class Gate:
    """Passes requests on to `engine`, whose base address is the Docker socket."""

    def __init__(self, rules: Rules, engine: httpx.AsyncClient) -> None:
        self._rules = rules
        self._engine = engine

    async def __call__(self, request: Request) -> Response:
        body = await _bounded(request)
        if body is None:
            return _refused(f"the body is larger than {_MAX_BODY_BYTES} bytes")
        if "upgrade" in request.headers:
            return _refused("connections cannot be upgraded")
        verdict = judge(Asked(request.method, request.url.path, dict(request.query_params), body), self._rules)
        if verdict.refusal is not None:
            return _refused(verdict.refusal)
        try:
            if verdict.container is not None and not await self._ours(verdict.container):
                return JSONResponse({"message": f"No such container: {verdict.container}"}, 404)
            return await self._pass_on(request, body)
        except httpx.TransportError as exc:
            return JSONResponse({"message": f"the Docker engine does not answer: {exc or type(exc).__name__}"}, 502)

    async def _ours(self, container: str) -> bool:
        answer = await self._engine.get(f"/containers/{container}/json")
        return answer.status_code == 200 and self._rules.owns(answer.json()["Config"]["Labels"])

    async def _pass_on(self, request: Request, body: bytes) -> Response:
        # The target as it was judged: the query is written anew from what the judge saw.
        asked = self._engine.build_request(
            request.method,
            request.url.path,
            params=dict(request.query_params),
            content=body,
            headers=_headers(request.headers),
        )
        answer = await self._engine.send(asked, stream=True)
        return StreamingResponse(_chunks(answer), answer.status_code, _headers(answer.headers))


async def _chunks(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


async def _bounded(request: Request) -> bytes | None:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _MAX_BODY_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _NOT_PASSED_ON | {"host"}}


def _refused(why: str) -> Response:
    _log.warning("gate.refused", reason=why)
    return Response(json.dumps({"message": f"refused by the gate: {why}"}), 403, media_type="application/json")


def application(rules: Rules, socket: str) -> Starlette:
    """The gate before the Docker socket at path `socket`."""
    engine = httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://docker", timeout=httpx.Timeout(60, read=None)
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        async with engine:
            yield {}

    gate = Gate(rules, engine)

    async def serve(request: Request) -> Response:
        return await gate(request)

    return Starlette(routes=[Route("/{path:path}", serve, methods=_METHODS)], lifespan=lifespan)
