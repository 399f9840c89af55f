"""`/sleep`, `/wake_up`, `/is_sleeping`: the weights of pipeline and upscaler to host memory and back."""

import asyncio
from collections.abc import Awaitable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from engines.diffusers.engine import Engine
from engines.diffusers.errors import EngineError
from engines.diffusers.refusals import Refused, closing


async def sleep(request: Request) -> Response:
    """Done when the memory is free. Drawings are taken meanwhile, and wait."""
    engine = _sleeper(request)
    if engine.worker is not None:
        await _moved(asyncio.wrap_future(engine.worker.sleep()))
    if engine.upscaling is not None:
        await _moved(engine.upscaling.sleep())
    return JSONResponse({"status": "asleep"})


async def wake_up(request: Request) -> Response:
    engine = _sleeper(request)
    if engine.worker is not None:
        await _moved(asyncio.wrap_future(engine.worker.wake_up()))
    if engine.upscaling is not None:
        await _moved(engine.upscaling.wake_up())
    return JSONResponse({"status": "ready"})


async def is_sleeping(request: Request) -> Response:
    return JSONResponse({"is_sleeping": request.app.state.engine.asleep})


def _sleeper(request: Request) -> Engine:
    """The engine, if it has weights. Raises `Refused`."""
    engine: Engine = request.app.state.engine
    if engine.worker is not None or engine.upscaling is None:
        engine.pipeline()
    return engine


async def _moved(moving: Awaitable[None]) -> None:
    """Raises `Refused` when the weights are not where they were wanted."""
    try:
        await moving
    except asyncio.CancelledError as exc:
        if isinstance(moving, asyncio.Future) and moving.cancelled():
            raise closing() from exc
        raise
    except (EngineError, OSError, RuntimeError, MemoryError) as exc:
        raise Refused(500, f"the weights could not be moved: {exc}", "server_error", "weights_not_moved") from exc
