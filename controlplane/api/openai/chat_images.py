"""Images in chats: found cheaply, refused by name where the model reads text only, and inlined as data URLs.

Engines are given no address to fetch, so what a caller names is fetched and checked here, before admission.
"""

import asyncio
import base64
import binascii
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from controlplane.api.openai.envelope import Envelope
from controlplane.core.model import InferenceType
from controlplane.loop import rejections
from controlplane.loop.world import ModelEntry
from controlplane.media.intake import PlainImage
from controlplane.media.media import Media
from engines.pictures.encoding import from_data_url, is_data_url, to_data_url
from engines.pictures.intake import PictureRefused

MAX_IMAGES = 16

# Where chats and their kin hold content; nothing else (a tool's JSON schema, say) is searched.
_ROOTS = (
    "messages",
    "previous_input_messages",
    "input",
    "system",
    "query",
    "queries",
    "documents",
    "items",
    "data_1",
    "data_2",
    "text_1",
    "text_2",
)
_TEXT_KEYS = frozenset({"role", "content", "name"})
_SCALARS = frozenset({str, int, float})
_DEEPER = ("content", "output")
_REFUSED_KEYS = ("video_url", "audio_url")

Part = dict[str, Any]  # a piece of the caller's JSON, changed in place


class _Found(NamedTuple):
    """A part with an image, or with other media, and where it stands."""

    part: Part
    param: str


def may_hold_images(fields: Mapping[str, Any]) -> bool:
    """A short look, so that a call with text alone pays next to nothing, however long the text."""
    for root in _ROOTS:  # noqa: SIM110  (making a generator takes as long as the look itself)
        if root in fields and not _is_text(fields[root]):
            return True
    return False


def _is_text(value: object) -> bool:
    """Text, tokens, lists of them, or messages with nothing but text; False where it takes a longer look."""
    if not isinstance(value, list):
        return isinstance(value, str)
    kinds = set(map(type, value))
    if kinds == {dict}:
        return all(map(_is_text_message, value))
    return kinds <= _SCALARS or (kinds == {list} and all(set(map(type, each)) <= _SCALARS for each in value))


def _is_text_message(message: Part) -> bool:
    return isinstance(message.get("content"), str) and message.keys() <= _TEXT_KEYS


def find_images(fields: Mapping[str, Any]) -> list[_Found]:
    """Every part that carries an image. Raises RequestRejected for other media and for too many."""
    found = list(_parts(fields))
    for part, param in found:
        other = next((key for key in _REFUSED_KEYS if part.get(key) is not None), None)
        if other is not None:
            raise rejections.invalid(f"{param}: only images are taken, no {other}", param, "unsupported_media")
    if len(found) > MAX_IMAGES:
        message = f"a request may hold {MAX_IMAGES} images, and this one holds {len(found)}"
        raise rejections.invalid(message, found[MAX_IMAGES].param, "too_many_images")
    return found


def check_reads_images(entry: ModelEntry, found: list[_Found]) -> None:
    """Raises RequestRejected where the model reads text only."""
    if InferenceType.IMAGE2TEXT not in entry.spec.types:
        message = f"{entry.spec.model_id} reads text only; GET /v1/models shows which models are of type image2text"
        raise rejections.invalid(message, found[0].param, "images_not_supported")


async def inlined(envelope: Envelope, found: list[_Found], media: Media) -> Envelope:
    """The same call with every image plain and in the body. Raises RequestRejected naming the part."""
    changed = await _all(_inline(part, param, media) for part, param in found)
    return envelope.with_fields(envelope.fields) if any(changed) else envelope


async def _all(inlining: Iterable[Coroutine[Any, Any, bool]]) -> list[bool]:
    """All at once; the first refusal ends the others."""
    tasks = [asyncio.create_task(each) for each in inlining]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _parts(fields: Mapping[str, Any]) -> Iterator[_Found]:
    """Depth first, in the caller's order, without recursion: the caller decides how deep it goes."""
    waiting: list[tuple[Any, str]] = [(fields[root], root) for root in reversed(_ROOTS) if root in fields]
    while waiting:
        value, place = waiting.pop()
        if isinstance(value, list):
            waiting += [(value[n], f"{place}.{n}") for n in range(len(value) - 1, -1, -1) if _is_deep(value[n])]
        elif isinstance(value, dict):
            key = _media_key(value)
            if key is not None:
                yield _Found(value, f"{place}.{key}")
            waiting += [(value[name], f"{place}.{name}") for name in _DEEPER if name in value]


def _is_deep(value: object) -> bool:
    return isinstance(value, dict | list)


def _media_key(part: Part) -> str | None:
    """The key that holds the media: engines go by it even where `type` says otherwise or nothing."""
    for key in ("image_url", *_REFUSED_KEYS):
        if part.get(key) is not None:
            return key
    if part.get("type") == "input_image":
        return "file_id" if part.get("file_id") is not None else "image_url"
    if part.get("type") in ("image_url", "image"):
        return "source" if isinstance(part.get("source"), dict) else "image_url"
    return None


async def _inline(part: Part, param: str, media: Media) -> bool:
    """Put a plain image in the place of what is there; whether that changed anything."""
    key = param.rpartition(".")[2]
    if key == "source":
        return await _inline_source(part["source"], param, media)
    if key == "file_id":
        raise rejections.invalid("files are not kept here; send the image itself", param, "unsupported_media")
    given = part.get("image_url")
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str):
        raise rejections.invalid(f"{param} must hold a URL", param, "invalid_type")
    plain = await media.plain_image(content := await read_image(url, param, media), param)
    if is_data_url(url) and plain.content is content and url.startswith(f"data:{plain.content_type};base64,"):
        return False
    inline = to_data_url(*plain)
    part["image_url"] = {**given, "url": inline} if isinstance(given, dict) else inline
    return True


async def _inline_source(source: Part, param: str, media: Media) -> bool:
    """Anthropic's form: base64 beside its type, or a URL."""
    plain: PlainImage
    if isinstance(source.get("url"), str):
        plain = await media.plain_image(await read_image(source["url"], param, media), param)
    else:
        try:
            content = base64.b64decode(source.get("data") or "", validate=True)
        except (binascii.Error, TypeError, ValueError) as exc:
            raise rejections.invalid(f"{param}.data is not valid base64", param, "invalid_image") from exc
        plain = await media.plain_image(content, param)
    coded = base64.b64encode(plain.content).decode()
    before = dict(source)
    source.clear()
    source.update({"type": "base64", "media_type": plain.content_type, "data": coded})
    return source != before


async def read_image(url: str, param: str, media: Media) -> bytes:
    """The bytes behind a data URL or an address. Raises RequestRejected that names `param`."""
    if is_data_url(url):
        try:
            return from_data_url(url, media.limits.max_mib)
        except PictureRefused as exc:
            raise rejections.invalid(f"{param}: {exc}", param, "invalid_image") from exc
    if url[:8].lower().startswith(("http://", "https://")):
        return await media.fetch(url, param)
    message = f"{param} must be a data URL, or an address with http:// or https://"
    raise rejections.invalid(message, param, "unsupported_scheme")
