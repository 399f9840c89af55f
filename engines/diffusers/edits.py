"""`POST /v1/images/edits`: pictures from an image and words; with a mask only a part is drawn anew."""

from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response

from engines.diffusers.bodies import from_json, from_texts, image_bytes, is_multipart, read_form
from engines.diffusers.connections import caller, joined
from engines.diffusers.drawings import Drawing, asked_size, checked, default_size, fitting_size
from engines.diffusers.engine import Engine
from engines.diffusers.generations import draw
from engines.diffusers.jobs import PipelineFacts
from engines.diffusers.refusals import Refused, invalid
from engines.diffusers.sources import read, source
from engines.diffusers.wire import EditBody


@dataclass(frozen=True, slots=True)
class _Edit:
    """A body with the bytes of its pictures."""

    body: EditBody
    image: bytes
    mask: bytes | None


async def edit(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    who = caller(request)
    if (known := await joined(request, engine.requests, who)) is not None:
        return known
    facts = engine.pipeline().facts
    engine.requests.check_open()
    asked = await _read(request, engine)
    engine.check_model(asked.body.model)
    drawing = await engine.threads.run(_drawing, asked, facts, engine)
    return await draw(request, engine, who, drawing, "image_edit")


async def _read(request: Request, engine: Engine) -> _Edit:
    limit_mib = engine.options.max_upload_mib
    if is_multipart(request):
        form = await read_form(request, limit_mib)
        body = from_texts(EditBody, {**form.texts})
        return await engine.threads.run(_with_pictures, body, form.files, limit_mib)
    content = await request.body()
    return await engine.threads.run(lambda: _with_pictures(from_json(EditBody, content), {}, limit_mib))


def _with_pictures(body: EditBody, files: dict[str, list[bytes]], limit_mib: int) -> _Edit:
    images = [*files.get("image", []), *_images_in_json(body, limit_mib)]
    if not images:
        raise invalid("this field is required", "image", "missing_required_parameter")
    if len(images) > 1:
        raise invalid(f"one image is edited in one request, not {len(images)}", "image", "unsupported_value")
    masks = files.get("mask", [])
    if body.mask is not None:
        masks = [*masks, image_bytes(body.mask, "mask", limit_mib)]
    if len(masks) > 1:
        raise invalid("is given more than once", "mask")
    return _Edit(body, images[0], masks[0] if masks else None)


def _images_in_json(body: EditBody, limit_mib: int) -> list[bytes]:
    image = body.image
    listed = [] if image is None else image if isinstance(image, list) else [image]
    return [
        *(image_bytes(each, "image", limit_mib) for each in listed),
        *(image_bytes(each, "images", limit_mib) for each in body.images or ()),
    ]


def _drawing(asked: _Edit, facts: PipelineFacts, engine: Engine) -> Drawing:
    """The words are judged before a picture is decoded."""
    body, options = asked.body, engine.options
    if not facts.takes_image:
        raise _unsupported(facts, "image", "draws from words only; use /v1/images/generations")
    if asked.mask is not None and not facts.takes_mask:
        raise _unsupported(facts, "mask", "takes no mask; leave it out")
    size = asked_size(body, facts, options)
    drawing = checked(body, size or default_size(facts, options), facts, options)
    image = read(asked.image, "image", engine.limits)
    mask = None if asked.mask is None else read(asked.mask, "mask", engine.limits)
    size = size or fitting_size(image.size, facts, options)
    start = source(image, mask, size, body.strength, drawing.steps)
    if start.mask is not None and not facts.takes_mask:
        raise _unsupported(facts, "image", "cannot fill transparent parts; send an opaque image")
    return replace(drawing, source=start, size=start.image.size)


def _unsupported(facts: PipelineFacts, param: str, why: str) -> Refused:
    return invalid(f"{facts.pipeline} {why}", param, "unsupported_parameter")
