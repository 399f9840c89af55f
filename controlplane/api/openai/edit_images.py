"""Addresses in the JSON of an image edit become data URLs, for engines are given nothing to fetch."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from controlplane.api.openai.chat_images import read_image
from controlplane.media.media import Media
from engines.pictures.encoding import is_data_url, to_data_url

_FIELDS = ("image", "images", "mask")
_KEY = "image_url"


class Address(NamedTuple):
    """Where an address stands: `holder[key]`."""

    holder: Any
    key: str | int
    param: str


def find_addresses(fields: dict[str, Any]) -> list[Address]:
    return [address for name in _FIELDS for address in _addresses(fields, name, name)]


async def inline_addresses(found: list[Address], media: Media) -> None:
    """Put a data URL in each place. Raises RequestRejected naming the field."""
    for holder, key, param in found:
        content = await read_image(holder[key], param, media)
        holder[key] = to_data_url(*await media.plain_image(content, param))


def _addresses(holder: Any, key: str | int, param: str) -> Iterator[Address]:
    """A text, an object with `image_url`, or a list of them; what is none of these is the engine's to refuse."""
    value = holder.get(key) if isinstance(holder, dict) else holder[key]
    if isinstance(value, list):
        for index in range(len(value)):
            if not isinstance(value[index], list):
                yield from _addresses(value, index, f"{param}.{index}")
    elif isinstance(value, dict):
        if not isinstance(value.get(_KEY), dict):
            yield from _addresses(value, _KEY, f"{param}.{_KEY}")
    elif isinstance(value, str) and "://" in value[:16] and not is_data_url(value):
        yield Address(holder, key, param)
