"""`POST /v1/images/generations`: pictures from words."""

from starlette.requests import Request
from starlette.responses import Response

from engines.diffusers.bodies import from_json
from engines.diffusers.connections import Caller, caller, joined, streamed, whole
from engines.diffusers.drawing_work import DrawingWork, Ticket
from engines.diffusers.drawings import Drawing, asked_size, checked, default_size
from engines.diffusers.engine import Engine
from engines.diffusers.wire import GenerationBody


async def generate(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    who = caller(request)
    if (known := await joined(request, engine.requests, who)) is not None:
        return known
    worker = engine.pipeline()
    engine.requests.check_open()
    body = from_json(GenerationBody, await request.body())
    engine.check_model(body.model)
    facts = worker.facts
    size = asked_size(body, facts, engine.options)
    drawing = checked(body, size or default_size(facts, engine.options), facts, engine.options)
    return await draw(request, engine, who, drawing, "image_generation")


async def draw(request: Request, engine: Engine, who: Caller, drawing: Drawing, kind: str) -> Response:
    """Start a checked drawing, and answer as its caller asked."""
    ticket = Ticket(who.request_id, who.priority)
    work = DrawingWork(ticket, drawing, engine, kind)
    live = await engine.requests.start(who.request_id, work)
    return streamed(live, work.frames, who) if drawing.stream else await whole(request, live, who)
