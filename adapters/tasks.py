"""The kinds of inference as values, and the one mapping of them onto OpenAI's wire and back.

Parameters pass to the engine, which judges them; only names that the mapping itself writes are refused here.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import orjson

from adapters.errors import EngineProtocolError

Fields = Mapping[str, object]

CHAT_PATH = "/v1/chat/completions"
GENERATIONS_PATH = "/v1/images/generations"
PROCESS_PATH = "/v1/images/process"

_OURS_IN_CHATS = frozenset({"model", "messages", "prompt", "stream", "stream_options", "n", "priority"})
_OURS_IN_DRAWINGS = frozenset(
    {"model", "prompt", "negative_prompt", "stream", "partial_images", "response_format", "priority"}
)
# Of the answer and not of the operation, so that an operation need not know them.
_OF_THE_ANSWER = ("output_format", "output_compression")
_TOLD = ("size", "operation", "method")
_DESCRIBE = "Describe this image."
_SIGNATURES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "image/webp"))
_COUNTS = (
    ("input_tokens", ("prompt_tokens", "input_tokens")),
    ("output_tokens", ("completion_tokens", "output_tokens")),
    ("total_tokens", ("total_tokens",)),
)


class Picture(NamedTuple):
    """An encoded picture: PNG, JPEG or WebP."""

    content: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class TextToText:
    prompt: str
    parameters: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextToImage:
    prompt: str
    negative_prompt: str | None = None
    parameters: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageToText:
    """`prompt` None asks for a description."""

    image: Picture
    prompt: str | None = None
    parameters: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageProcessing:
    image: Picture
    operation: str
    parameters: Fields = field(default_factory=dict)


Task = TextToText | TextToImage | ImageToText | ImageProcessing


class TaskRefused(Exception):
    """A task cannot be put to an engine as it is; `param` names the field to change."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class TaskCall(NamedTuple):
    """The HTTP call that does a task. `fields` are those of the body."""

    path: str
    body: bytes
    fields: Fields
    content_type: bytes = b"application/json"


class TaskResult(NamedTuple):
    """What came of a task: a text or pictures, token counts, and what else the engine tells of how it was done."""

    text: str | None = None
    pictures: tuple[Picture, ...] = ()
    usage: Mapping[str, int] = MappingProxyType({})
    details: Fields = MappingProxyType({})


def openai_call(task: Task, model_name: str) -> TaskCall:
    """Raises TaskRefused."""
    path, fields = _fields(task, model_name)
    try:
        return TaskCall(path, orjson.dumps(fields), fields)
    except orjson.JSONEncodeError as exc:
        raise TaskRefused("parameters", f"parameters cannot be written as JSON: {exc}") from exc


def openai_stream(call: TaskCall) -> TaskCall | None:
    """The same chat with its answer as a stream that ends with its token counts; None for what is no chat."""
    if call.path != CHAT_PATH:
        return None
    fields = {**call.fields, "stream": True, "stream_options": {"include_usage": True}}
    return call._replace(body=orjson.dumps(fields), fields=fields)


def openai_result(task: Task, body: bytes) -> TaskResult:
    """Raises EngineProtocolError when the answer is not what the task is answered with."""
    try:
        answer = orjson.loads(body)
        usage = _usage(answer.get("usage"))
        if isinstance(task, TextToText | ImageToText):
            return TaskResult(text=_text(answer["choices"][0]["message"].get("content")), usage=usage)
        pictures = tuple(_picture(each["b64_json"]) for each in answer["data"])
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        raise EngineProtocolError(f"the engine's answer cannot be read: {type(exc).__name__}") from exc
    if not pictures:
        raise EngineProtocolError("the engine's answer holds no picture")
    details = {name: answer[name] for name in _TOLD if answer.get(name) is not None}
    seeds = [each.get("seed") for each in answer["data"]]
    return TaskResult(None, pictures, usage, details if None in seeds else {**details, "seeds": seeds})


def picture_type(content: bytes) -> str:
    """The content type by the first bytes. Raises EngineProtocolError for what is none of the three."""
    for signature, content_type in _SIGNATURES:
        if content.startswith(signature):
            return content_type
    raise EngineProtocolError("the engine answered with a picture that is neither PNG nor JPEG nor WebP")


def _fields(task: Task, model_name: str) -> tuple[str, dict[str, object]]:
    match task:
        case TextToText():
            return CHAT_PATH, _chat(model_name, task.prompt, task.parameters)
        case ImageToText():
            image = {"type": "image_url", "image_url": {"url": _data_url(task.image)}}
            content = [image, {"type": "text", "text": task.prompt or _DESCRIBE}]
            return CHAT_PATH, _chat(model_name, content, task.parameters)
        case TextToImage():
            return GENERATIONS_PATH, _drawing(model_name, task)
        case ImageProcessing():
            return PROCESS_PATH, _processing(model_name, task)


def _chat(model_name: str, content: object, parameters: Fields) -> dict[str, object]:
    _check(parameters, _OURS_IN_CHATS)
    return {**parameters, "model": model_name, "messages": [{"role": "user", "content": content}]}


def _drawing(model_name: str, task: TextToImage) -> dict[str, object]:
    _check(task.parameters, _OURS_IN_DRAWINGS)
    fields = _with_size(task.parameters)
    fields |= {"model": model_name, "prompt": task.prompt, "response_format": "b64_json"}
    if task.negative_prompt is not None:
        fields["negative_prompt"] = task.negative_prompt
    return fields


def _with_size(parameters: Fields) -> dict[str, object]:
    """Width and height as the one size that OpenAI's wire has."""
    fields = dict(parameters)
    sides = [name for name in ("width", "height") if fields.get(name) is not None]
    if not sides:
        return fields
    if len(sides) == 1 or fields.get("size") is not None:
        raise TaskRefused(f"parameters.{sides[0]}", "give width and height together, or size alone")
    width, height = fields.pop("width"), fields.pop("height")
    return {**fields, "size": f"{width}x{height}"}


def _processing(model_name: str, task: ImageProcessing) -> dict[str, object]:
    parameters = dict(task.parameters)
    lifted = {name: parameters.pop(name) for name in _OF_THE_ANSWER if name in parameters}
    image = _data_url(task.image)
    return {"model": model_name, "operation": task.operation, "parameters": parameters, **lifted, "image": image}


def _check(parameters: Fields, ours: frozenset[str]) -> None:
    for name in parameters:
        if name in ours:
            raise TaskRefused(f"parameters.{name}", f"{name} is not a parameter here; leave it out of parameters")


def _data_url(picture: Picture) -> str:
    return f"data:{picture.content_type};base64,{base64.b64encode(picture.content).decode()}"


def _text(content: object) -> str:
    """None is what a model says that only called tools."""
    if content is not None and not isinstance(content, str):
        raise TypeError("the content is no text")
    return content or ""


def _picture(coded: str) -> Picture:
    content = base64.b64decode(coded, validate=True)
    return Picture(content, picture_type(content))


def _usage(given: object) -> Mapping[str, int]:
    if not isinstance(given, Mapping):
        return {}
    found = {ours: next((given[name] for name in theirs if name in given), None) for ours, theirs in _COUNTS}
    return {name: count for name, count in found.items() if isinstance(count, int)}
