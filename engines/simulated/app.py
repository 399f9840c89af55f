"""The routes of the simulated engine: which path does what, as vLLM 0.32 answers it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import time
from typing import Any

from engines.simulated.core import Core
from engines.simulated.image_replies import Easel, OperationReply, PictureSink, PictureStream, WholePictures
from engines.simulated.image_requests import WantedPictures, wanted_edit, wanted_operation, wanted_pictures
from engines.simulated.replies import StreamReply, WholeReply
from engines.simulated.requests import (
    Limits,
    Refusal,
    Wanted,
    WantedEmbeddings,
    bad_request,
    model_name,
    read_body,
    wanted_chat,
    wanted_completion,
    wanted_embeddings,
    wanted_response,
)
from engines.simulated.scheduler import Busy, Generation, ShutDown, Sink
from engines.simulated.shapes import ChatShape, CompletionShape, ResponseShape, Shape
from engines.simulated.text import Answer, count_tokens, detokenize, embedding, embedding_base64, tokenize
from engines.simulated.wire import Connection, Request

VERSION = "0.32.0+simulated"

Route = Callable[[Request, Connection], None]
Read = Callable[[Request, Limits], Wanted]


class App:
    """Answers requests from one engine core."""

    def __init__(self, core: Core, limits: Limits, in_flight: Callable[[], int]) -> None:
        self._core = core
        self._limits = limits
        self._in_flight = in_flight
        self._started_at = int(time())
        self._routes: dict[str, dict[str, Route]] = {
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/load": {"GET": self._load},
            "/version": {"GET": self._version},
            "/metrics": {"GET": self._metrics},
            "/v1/models": {"GET": self._models},
            "/v1/chat/completions": {"POST": partial(self._generate, wanted_chat, ChatShape)},
            "/v1/completions": {"POST": partial(self._generate, wanted_completion, CompletionShape)},
            "/v1/responses": {"POST": partial(self._generate, wanted_response, ResponseShape)},
            "/v1/embeddings": {"POST": self._embeddings},
            "/v1/images/generations": {"POST": partial(self._draw, wanted_pictures, "image_generation")},
            "/v1/images/edits": {"POST": partial(self._draw, wanted_edit, "image_edit")},
            "/v1/images/process": {"POST": self._process},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
            "/sleep": {"POST": self._sleep},
            "/wake_up": {"POST": self._wake_up},
            "/is_sleeping": {"GET": self._is_sleeping},
        }

    def __call__(self, request: Request, connection: Connection) -> None:
        """Answer now, or hand the connection to what will."""
        methods = self._routes.get(request.path)
        if methods is None:
            connection.json(404, {"detail": "Not Found"})
            return
        route = methods.get(request.method)
        if route is None:
            connection.json(405, {"detail": "Method Not Allowed"})
            return
        try:
            route(request, connection)
        except Refusal as exc:
            connection.json(exc.status, exc.content())

    # generation

    def _generate(
        self, read: Read, shape_of: Callable[[Wanted], Shape], request: Request, connection: Connection
    ) -> None:
        wanted = read(request, self._limits)
        shape = shape_of(wanted)
        if not wanted.stream:
            answer = Answer(wanted.prompt)
            whole = WholeReply(connection, lambda tokens, reason: shape.whole(answer.text(tokens), tokens, reason))
            self._submit(connection, _generation(whole, wanted))
            return
        stream = StreamReply(connection, shape, wanted)
        self._submit(connection, _generation(stream, wanted))
        stream.begin()

    def _draw(
        self, read: Callable[[Request, Limits], WantedPictures], kind: str, request: Request, connection: Connection
    ) -> None:
        wanted = read(request, self._limits)
        easel = Easel(wanted, kind)
        sink: PictureSink = PictureStream(connection, easel) if wanted.stream else WholePictures(connection, easel)
        generation = Generation(sink, count_tokens(wanted.prompt), wanted.steps, "stop", wanted.priority)
        self._submit_steps(connection, generation)
        sink.begin()

    def _process(self, request: Request, connection: Connection) -> None:
        wanted = wanted_operation(request, self._limits)
        reply = OperationReply(connection, wanted)
        self._submit_steps(connection, Generation(reply, 0, 1, "stop", wanted.priority))

    def _submit_steps(self, connection: Connection, generation: Generation) -> None:
        steps_per_second = self._core.script.steps_per_second
        generation.interval = 1.0 / steps_per_second if steps_per_second else 0.0
        self._submit(connection, generation)

    def _embeddings(self, request: Request, connection: Connection) -> None:
        wanted = wanted_embeddings(request, self._limits)
        content = _embedded(wanted, self._core.script.embedding_dimensions)
        tokens = content["usage"]["prompt_tokens"]
        reply = WholeReply(connection, lambda _tokens, _reason: content)
        self._submit(connection, Generation(reply, tokens, limit=0, reason="stop", priority=wanted.priority))

    def _submit(self, connection: Connection, generation: Generation) -> None:
        scheduler = self._core.scheduler
        connection.on_gone = partial(scheduler.cancel, generation)
        try:
            scheduler.submit(generation)
        except Busy as exc:
            raise Refusal(503, "The engine is currently busy. Please retry later.", "Service Unavailable") from exc
        except ShutDown as exc:
            message = "cannot schedule new futures after shutdown"
            raise Refusal(500, message, "InternalServerError") from exc

    def _tokenize(self, request: Request, connection: Connection) -> None:
        body = read_body(request)
        model_name(body, self._limits)
        text = body.get("prompt")
        if text is None and isinstance(body.get("messages"), list):
            text = wanted_chat(request, self._limits).prompt
        if not isinstance(text, str):
            raise bad_request("prompt must be a string", "prompt")
        tokens = tokenize(text)
        content = {"count": len(tokens), "max_model_len": self._limits.max_model_len, "tokens": tokens}
        connection.json(200, {**content, "token_strs": None})

    def _detokenize(self, request: Request, connection: Connection) -> None:
        body = read_body(request)
        model_name(body, self._limits)
        tokens = body.get("tokens")
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise bad_request("tokens must be a list of token ids", "tokens")
        try:
            connection.json(200, {"prompt": detokenize(tokens)})
        except ValueError as exc:
            raise bad_request(str(exc), "tokens") from exc

    # what the engine says of itself

    def _health(self, _request: Request, connection: Connection) -> None:
        connection.whole(200, b"text/plain", b"")

    def _load(self, _request: Request, connection: Connection) -> None:
        connection.json(200, {"server_load": self._in_flight() - 1})  # this request does not count

    def _version(self, _request: Request, connection: Connection) -> None:
        connection.json(200, {"version": VERSION})

    def _metrics(self, _request: Request, connection: Connection) -> None:
        page = self._core.metrics(self._limits.models[0])
        connection.whole(200, b"text/plain; version=0.0.4; charset=utf-8", page)

    def _models(self, _request: Request, connection: Connection) -> None:
        models: list[dict[str, object]] = [
            {
                "id": name,
                "object": "model",
                "created": self._started_at,
                "owned_by": "vllm",
                "root": self._limits.models[0],
                "parent": None,
                "max_model_len": self._limits.max_model_len,
                "permission": [],
            }
            for name in self._limits.models
        ]
        connection.json(200, {"object": "list", "data": models})

    # sleep

    def _sleep(self, request: Request, connection: Connection) -> None:
        level = request.query.get("level", "1")
        if level not in ("0", "1", "2"):
            raise bad_request("level must be 0, 1 or 2", "level")
        self._core.sleep(int(level))
        connection.json(200, {"status": "sleeping"})

    def _wake_up(self, _request: Request, connection: Connection) -> None:
        self._core.wake(partial(connection.json, 200, {"status": "awake", "tags": None}))

    def _is_sleeping(self, _request: Request, connection: Connection) -> None:
        connection.json(200, {"is_sleeping": self._core.asleep})


def _generation(sink: Sink, wanted: Wanted) -> Generation:
    return Generation(sink, wanted.prompt_tokens, wanted.limit, wanted.reason, wanted.priority)


def _embedded(wanted: WantedEmbeddings, own_dimensions: int) -> dict[str, Any]:
    vectors = [embedding(text, wanted.dimensions or own_dimensions) for text in wanted.texts]
    encoded = [embedding_base64(vector) if wanted.as_base64 else vector for vector in vectors]
    tokens = sum(map(count_tokens, wanted.texts))
    return {
        "id": "embd-simulated",
        "object": "list",
        "created": int(time()),
        "model": wanted.model,
        "data": [{"index": n, "object": "embedding", "embedding": each} for n, each in enumerate(encoded)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
    }
