"""The unified API in the words of OpenAPI, made from the shapes that its calls are checked by."""

from typing import Any

from controlplane.api.unified.asks import UNIFIED_PATHS
from controlplane.core.model import InferenceType

_COMMON: dict[str, Any] = {
    "request_id": {"type": ["string", "null"]},
    "type": {"enum": [kind.value for kind in InferenceType]},
    "model": {"type": ["string", "null"]},
    "status": {"enum": ["complete", "failed"]},
    "created_at": {"type": ["number", "null"]},
    "error_message": {"type": ["string", "null"]},
}
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
    """What belongs under `paths`."""
    return {path: {"post": _operation(path)} for path in UNIFIED_PATHS}


def _operation(path: str) -> dict[str, Any]:
    shape = UNIFIED_PATHS[path]
    asked = {**shape.model_json_schema(), "title": f"Ask for {shape.kind.value}"}
    bodies = {"application/json": {"schema": asked}}
    if "image" in asked["properties"]:
        upload = {"file": {"type": "string", "format": "binary"}}
        bodies["multipart/form-data"] = {"schema": {**asked, "properties": {**upload, **asked["properties"]}}}
    usage = {"type": ["object", "null"], "additionalProperties": {"type": "integer"}}
    good = {**_COMMON, **_RESULTS[shape.kind], "usage": usage}
    bad = {**_COMMON, "error": {"type": "object"}}
    return {
        "tags": ["unified"],
        "summary": f"{shape.kind.value}, answered with the result",
        "requestBody": {"required": True, "content": bodies},
        "responses": {"200": _answer("The result", good), "default": _answer("Why not", bad)},
    }


def _answer(description: str, properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
