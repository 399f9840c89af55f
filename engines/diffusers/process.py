"""`POST /v1/images/process`: one operation on one picture, without a pipeline."""

import json
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import time

from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from engines.diffusers.bodies import Form, from_json, from_texts, image_bytes, is_multipart, read_form
from engines.diffusers.connections import caller, joined, whole
from engines.diffusers.engine import Engine
from engines.diffusers.live import Progress
from engines.diffusers.refusals import cancelled, invalid
from engines.diffusers.sources import read
from engines.diffusers.wire import Picture, ProcessAnswer, ProcessBody
from engines.pictures.encoding import Encoding, encode
from engines.pictures.operations import Operation, SizeLimits, Upscale, check_size, operation_of, perform
from engines.pictures.refusals import ParameterRefused


async def process(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    who = caller(request)
    if (known := await joined(request, engine.requests, who)) is not None:
        return known
    engine.requests.check_open()
    body, content = await _read(request, engine)
    engine.check_model(body.model)
    live = await engine.requests.start(who.request_id, ProcessingWork(_asked(body), content, engine))
    return await whole(request, live, who)


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked operation, and how its result is written."""

    operation: Operation
    encoding: Encoding


class ProcessingWork:
    """Decodes, changes and encodes in threads. Of what runs there, only the upscaler is broken off."""

    kind = "image_process"

    def __init__(self, asked: Asked, content: bytes, engine: Engine) -> None:
        self._asked = asked
        self._content = content
        self._engine = engine
        self._cancelled = False
        self._started = self._done = False

    async def run(self) -> bytes:
        """A `ProcessAnswer`. Raises `Refused`."""
        image = await self._engine.threads.run(self._picture)
        changed, method = await self._changed(image)
        answer = await self._engine.threads.run(self._answer, changed, method)
        self._done = True
        return answer

    def cancel(self) -> None:
        self._cancelled = True

    def progress(self) -> Progress:
        return Progress(self._started, (int(self._done), 1))

    def _picture(self) -> Image.Image:
        """Decoded, and judged by what the operation would make of it."""
        self._check_wanted()
        self._started = True
        image = read(self._content, "image", self._engine.limits)
        with _refusing():
            check_size(self._asked.operation, image.size, self._size_limits)
        return image

    async def _changed(self, image: Image.Image) -> tuple[Image.Image, str]:
        """The result, and how it was made."""
        operation, upscaling = self._asked.operation, self._engine.upscaling
        if isinstance(operation, Upscale) and upscaling is not None:
            size = operation.size_after(image.size)
            return await upscaling.upscaled(image, size, self._check_wanted), upscaling.name
        method = "lanczos" if isinstance(operation, Upscale) else "pillow"
        return await self._engine.threads.run(self._performed, image), method

    def _performed(self, image: Image.Image) -> Image.Image:
        self._check_wanted()
        with _refusing():
            return perform(self._asked.operation, image, self._size_limits)

    def _answer(self, changed: Image.Image, method: str) -> bytes:
        self._check_wanted()
        with _refusing():
            content = encode(changed, self._asked.encoding)
        answer = ProcessAnswer(
            created=int(time()),
            data=[Picture(b64_json=b64encode(content).decode())],
            output_format=self._asked.encoding.output_format,
            size=f"{changed.width}x{changed.height}",
            operation=self._asked.operation.name,
            method=method,
        )
        return answer.model_dump_json(exclude_none=True).encode()

    @property
    def _size_limits(self) -> SizeLimits:
        return SizeLimits(self._engine.options.max_pixels)

    def _check_wanted(self) -> None:
        if self._cancelled:
            raise cancelled()


@contextmanager
def _refusing() -> Iterator[None]:
    """What the operations refuse, as an answer."""
    try:
        yield
    except ParameterRefused as exc:
        raise invalid(exc.message, exc.field) from exc


def _asked(body: ProcessBody) -> Asked:
    with _refusing():
        operation = operation_of(body.operation, body.parameters)
    own = operation.encoding()
    if own is None:
        return Asked(operation, Encoding(body.output_format or "png", body.output_compression))
    if body.output_format not in (None, own.output_format):
        raise invalid(f"is {body.output_format}, but the operation writes {own.output_format}", "output_format")
    return Asked(operation, own)


async def _read(request: Request, engine: Engine) -> tuple[ProcessBody, bytes]:
    limit_mib = engine.options.max_upload_mib
    if is_multipart(request):
        return _from_form(await read_form(request, limit_mib), limit_mib)
    content = await request.body()
    return await engine.threads.run(_from_json, content, limit_mib)


def _from_json(content: bytes, limit_mib: int) -> tuple[ProcessBody, bytes]:
    body = from_json(ProcessBody, content)
    return body, _one_picture(body, [], limit_mib)


def _from_form(form: Form, limit_mib: int) -> tuple[ProcessBody, bytes]:
    fields: dict[str, object] = {**form.texts}
    if "parameters" in form.texts:
        fields["parameters"] = _parameters(form.texts["parameters"])
    body = from_texts(ProcessBody, fields)
    files = [*form.files.get("image", []), *form.files.get("file", [])]
    return body, _one_picture(body, files, limit_mib)


def _parameters(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise invalid(f"is not JSON: {exc}", "parameters", "invalid_json") from exc


def _one_picture(body: ProcessBody, files: list[bytes], limit_mib: int) -> bytes:
    given = files if body.image is None else [*files, image_bytes(body.image, "image", limit_mib)]
    if not given:
        raise invalid("this field is required", "image", "missing_required_parameter")
    if len(given) > 1:
        raise invalid(f"one image is processed in one request, not {len(given)}", "image")
    return given[0]
