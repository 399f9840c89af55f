"""Calls of the unified API that a test makes, each answer checked for the names that all of them have."""

import io
from typing import Any

from PIL import Image
from service import Service

TEXT = "/api/v1/text-to-text"
DRAW = "/api/v1/text-to-image"
SEE = "/api/v1/image-to-text"
PROCESS = "/api/v1/image-processing"
PATHS = {TEXT: "text2text", DRAW: "text2image", SEE: "image2text", PROCESS: "image_processing"}
NAMES = {"request_id", "type", "status", "created_at", "error_message", "model"}


async def complete(service: Service, path: str, **call: Any) -> dict[str, Any]:
    """The answer to a good call, checked for the names that every answer has."""
    answer = await service.http.post(path, **call)
    assert answer.status_code == 200, answer.text
    fields = answer.json()
    assert fields.keys() >= NAMES
    assert (fields["status"], fields["type"], fields["error_message"]) == ("complete", PATHS[path], None)
    assert fields["request_id"] == answer.headers["x-request-id"]
    return dict(fields)


async def refused(service: Service, path: str, status: int = 400, **call: Any) -> dict[str, Any]:
    """The answer to a bad call: the same names, and OpenAI's error beside them."""
    answer = await service.http.post(path, **call)
    assert answer.status_code == status, answer.text
    fields = answer.json()
    assert fields.keys() == NAMES | {"error"}
    assert (fields["status"], fields["type"]) == ("failed", PATHS[path])
    assert fields["error_message"] == fields["error"]["message"]
    assert set(fields["error"]) == {"message", "type", "param", "code"}
    return dict(fields)


async def picture(service: Service, path: str) -> Image.Image:
    """The artifact that a path of an answer names."""
    answer = await service.http.get(path)
    assert answer.status_code == 200, answer.text
    found = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == Image.MIME[found.format or ""]
    return found
