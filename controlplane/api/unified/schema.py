"""The unified API in the words of OpenAPI, made from the shapes that its calls are checked by."""

from typing import Any

from controlplane.api.unified.asks import SUBMIT_PATH, UNIFIED_PATHS
from controlplane.core.model import InferenceType, RequestStatus

_COMMON: dict[str, Any] = {
    "request_id": {"type": ["string", "null"]},
    "type": {"enum": [kind.value for kind in InferenceType]},
    "model": {"type": ["string", "null"]},
    "status": {"enum": [status.value for status in RequestStatus]},
    "created_at": {"type": ["number", "null"]},
    "error_message": {"type": ["string", "null"]},
}
_ACCEPTED: dict[str, Any] = {**_COMMON, "priority": {"type": "integer"}, "links": {"type": "object"}}
_BAD: dict[str, Any] = {**_COMMON, "error": {"type": "object"}}
_PATH = {"type": "string"}
_RESULTS: dict[InferenceType, dict[str, Any]] = {
    InferenceType.TEXT2TEXT: {"text": {"type": "string"}},
    InferenceType.IMAGE2TEXT: {"text": {"type": "string"}},
    InferenceType.TEXT2IMAGE: {"image_paths": {"type": "array", "items": _PATH}},
    InferenceType.IMAGE_PROCESSING: {
        "image_path": _PATH,
        "operation": {"type": "string"},
        "method": {"type": "string"},
    },
}


def unified_paths() -> dict[str, Any]:
    """What belongs under `paths`, by path and method."""
    return {**{path: {"post": _operation(path)} for path in UNIFIED_PATHS}, SUBMIT_PATH: {"post": _submission()}}


def _submission() -> dict[str, Any]:
    shapes = [{**shape.model_json_schema(), "title": f"Ask for {shape.kind.value}"} for shape in UNIFIED_PATHS.values()]
    return {
        "tags": ["requests"],
        "summary": "a job of any kind, by its type",
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"oneOf": shapes}}}},
        "responses": {"202": _answer("Accepted", _ACCEPTED), "default": _answer("Why not", _BAD)},
    }


def _operation(path: str) -> dict[str, Any]:
    shape = UNIFIED_PATHS[path]
    asked = {**shape.model_json_schema(), "title": f"Ask for {shape.kind.value}"}
    bodies = {"application/json": {"schema": asked}}
    if "image" in asked["properties"]:
        upload = {"file": {"type": "string", "format": "binary"}}
        bodies["multipart/form-data"] = {"schema": {**asked, "properties": {**upload, **asked["properties"]}}}
    usage = {"type": ["object", "null"], "additionalProperties": {"type": "integer"}}
    good = {**_COMMON, **_RESULTS[shape.kind], "usage": usage}
    return {
        "tags": ["unified"],
        "summary": f"{shape.kind.value}, answered with the result or accepted as a job",
        "requestBody": {"required": True, "content": bodies},
        "responses": {
            "200": _answer("The result", good),
            "202": _answer("A job was accepted", _ACCEPTED),
            "default": _answer("Why not", _BAD),
        },
    }


def _answer(description: str, properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
