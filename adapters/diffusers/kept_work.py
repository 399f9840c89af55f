"""Looks after work that an engine keeps under its request's id: how far it is, and its end when nobody wants it."""

import asyncio

import orjson

from adapters.base import WorkProgress
from adapters.endpoint import Endpoint
from adapters.errors import EngineError
from adapters.http1 import Pool
from engines.diffusers.wire import RequestState

_CONNECT_TIMEOUT_SECONDS = 1.0
_ANSWER_TIMEOUT_SECONDS = 3.0
_MAX_BYTES = 64 * 1024


async def look(endpoint: Endpoint, request_id: str) -> WorkProgress | None:
    """None where the engine knows nothing of it, or cannot be asked. Never raises."""
    body = await _ask(endpoint, "GET", request_id)
    try:
        state = RequestState.model_validate(orjson.loads(body)) if body is not None else None
    except ValueError:
        return None
    if state is None:
        return None
    if state.steps_total:
        return WorkProgress(state.steps_done, state.steps_total, "steps")
    return WorkProgress(state.images_done, state.images_total, "images")


async def end(endpoint: Endpoint, request_id: str) -> None:
    """Cancel it or forget its result. Never raises."""
    await _ask(endpoint, "DELETE", request_id)


async def _ask(endpoint: Endpoint, method: str, request_id: str) -> bytes | None:
    pool = Pool(endpoint, connect_timeout_seconds=_CONNECT_TIMEOUT_SECONDS)
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_SECONDS):
            with await pool.send(method, f"/v1/requests/{request_id}") as response:
                body = await response.read(_MAX_BYTES)
                return body if response.status == 200 else None
    except (EngineError, TimeoutError):
        return None
    finally:
        pool.close()
        # The event loop tells of closed sockets one turn later.
        await asyncio.sleep(0)
