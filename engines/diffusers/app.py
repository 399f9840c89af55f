"""The routes of the diffusers engine: which path does what, and every error in OpenAI's shape."""

from collections.abc import Mapping

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engines.diffusers import metrics
from engines.diffusers.body_limit import BodyLimit
from engines.diffusers.edits import edit
from engines.diffusers.engine import Engine
from engines.diffusers.generations import generate
from engines.diffusers.process import process
from engines.diffusers.refusals import CANCELLED_STATUS, Refused
from engines.diffusers.sleeping import is_sleeping, sleep, wake_up
from engines.diffusers.wire import REQUEST_ID


def application(engine: Engine) -> Starlette:
    """The ASGI application around one engine."""
    app = Starlette(routes=ROUTES, exception_handlers=_ANSWERS)
    app.add_middleware(BodyLimit, limit_mib=engine.options.max_upload_mib)
    app.state.engine = engine
    return app


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _json(model: BaseModel) -> Response:
    return Response(model.model_dump_json(), media_type="application/json")


async def _health(request: Request) -> Response:
    engine = _engine(request)
    engine.requests.check_open()
    if engine.worker is not None:
        engine.pipeline()
    return JSONResponse({"status": "asleep" if engine.asleep else "ready"})


async def _metrics(request: Request) -> Response:
    return Response(_engine(request).metrics.page(), headers={"content-type": metrics.CONTENT_TYPE})


async def _models(request: Request) -> Response:
    engine = _engine(request)
    data = [
        {"id": name, "object": "model", "created": engine.started_at, "owned_by": "diffusers"} for name in engine.models
    ]
    return JSONResponse({"object": "list", "data": data})


async def _pipeline(request: Request) -> Response:
    facts = _engine(request).pipeline().facts
    return JSONResponse({name: getattr(facts, name) for name in facts.__dataclass_fields__})


async def _request_state(request: Request) -> Response:
    return _json(_engine(request).requests.state(request.path_params["request_id"]))


async def _request_result(request: Request) -> Response:
    request_id = request.path_params["request_id"]
    outcome = _engine(request).requests.result(request_id)
    return Response(outcome.content, outcome.status, {**outcome.headers, REQUEST_ID: request_id}, "application/json")


async def _end_request(request: Request) -> Response:
    return _json(_engine(request).requests.end(request.path_params["request_id"]))


async def _refused(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, Refused)
    return Response(exc.content(), exc.status, exc.headers(), "application/json")


async def _http(request: Request, exc: Exception) -> Response:
    """Starlette's own: no such path, no such method, a broken multipart body."""
    assert isinstance(exc, HTTPException)
    messages: Mapping[int, str] = {
        404: f"there is no {request.url.path}",
        405: f"{request.method} is not what {request.url.path} is for",
    }
    kind = "not_found_error" if exc.status_code == 404 else "invalid_request_error"
    code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "invalid_body")
    refused = Refused(exc.status_code, messages.get(exc.status_code, exc.detail), kind, code)
    return Response(refused.content(), exc.status_code, exc.headers, "application/json")


async def _broken(_request: Request, _exc: Exception) -> Response:
    """A fault of our own; its traceback is in the log."""
    refused = Refused(500, "the engine is at fault; its log says more", "server_error", "internal_error")
    return Response(refused.content(), 500, refused.headers(), "application/json")


async def _gone(_request: Request, _exc: Exception) -> Response:
    """The caller hung up before its body was here; nobody reads this."""
    return Response(status_code=CANCELLED_STATUS)


_ANSWERS = {Refused: _refused, HTTPException: _http, ClientDisconnect: _gone, Exception: _broken}

ROUTES = [
    Route("/v1/images/generations", generate, methods=["POST"]),
    Route("/v1/images/edits", edit, methods=["POST"]),
    Route("/v1/images/process", process, methods=["POST"]),
    Route("/v1/models", _models),
    Route("/v1/pipeline", _pipeline),
    Route("/v1/requests/{request_id}", _request_state),
    Route("/v1/requests/{request_id}", _end_request, methods=["DELETE"]),
    Route("/v1/requests/{request_id}/result", _request_result),
    Route("/health", _health),
    Route("/metrics", _metrics),
    Route("/sleep", sleep, methods=["POST"]),
    Route("/wake_up", wake_up, methods=["POST"]),
    Route("/is_sleeping", is_sleeping),
]
