"""Answers under /api/v1, by the names the product was specified with; a failure also carries OpenAI's error."""

from collections.abc import Mapping
from dataclasses import replace

import orjson

from adapters.errors import EngineProtocolError
from adapters.tasks import Task, TaskResult
from controlplane.api.artifacts import kept
from controlplane.api.reply import JSON_TYPE
from controlplane.core.model import InferenceType, Outcome
from controlplane.errors import RequestRejected
from controlplane.loop import rejections
from controlplane.loop.exchange import Accepted, Answer
from controlplane.media.artifacts import Artifacts

Fields = dict[str, object]


async def finished(accepted: Accepted, task: Task, artifacts: Artifacts, answer: Answer) -> Answer:
    """The engine's good answer as ours; pictures become artifacts. Raises RequestRejected."""
    try:
        result = accepted.entry.adapter.task_result(task, answer.body)
    except EngineProtocolError as exc:
        raise rejections.aborted(str(exc)) from exc
    paths = [await kept(artifacts, picture.content) for picture in result.pictures]
    fields = _head(accepted.type, accepted) | {"status": Outcome.SUCCEEDED.status.value, "error_message": None}
    return Answer(200, JSON_TYPE, orjson.dumps(fields | _result(accepted.type, result, paths)))


def failed(kind: InferenceType | None, accepted: Accepted | None, rejection: RequestRejected) -> bytes:
    """The body of a failure; `accepted` None where it was refused at the door."""
    error = rejection.error
    shown = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    fields = _head(kind, accepted) | {"status": Outcome.FAILED.status.value, "error_message": error.message}
    return orjson.dumps(fields | {"error": shown})


def of_our_fields(rejection: RequestRejected, parameters: Mapping[str, object]) -> RequestRejected:
    """The engine names the fields it was sent; what the caller wrote stands elsewhere."""
    param = rejection.error.param
    if param in parameters:
        return _renamed(rejection, f"parameters.{param}")
    if param == "size" and "width" in parameters:
        return _renamed(rejection, "parameters.width")
    return _renamed(rejection, "prompt") if param == "messages" else rejection


def _renamed(rejection: RequestRejected, param: str) -> RequestRejected:
    return RequestRejected(replace(rejection.error, param=param), rejection.retry_after_seconds)


def _head(kind: InferenceType | None, accepted: Accepted | None) -> Fields:
    named = None if kind is None else kind.value
    if accepted is None:
        return {"request_id": None, "type": named, "created_at": None, "model": None}
    head = accepted.head
    return {
        "request_id": head.request_id,
        "type": named,
        "created_at": round(head.enqueued_at, 3),
        "model": head.model_id,
    }


def _result(kind: InferenceType, result: TaskResult, paths: list[str]) -> Fields:
    usage = dict(result.usage) or None
    if kind is InferenceType.TEXT2IMAGE:
        return {"image_paths": paths, "usage": usage, **result.details}
    if kind is InferenceType.IMAGE_PROCESSING:
        return {"image_path": paths[0], "usage": usage, **result.details}
    return {"text": result.text, "usage": usage}
