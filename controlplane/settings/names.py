"""The names by which models are called must lead to exactly one model each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from controlplane.core.model import InferenceType
from controlplane.settings.document import Location

_TYPE_NAMES = frozenset(kind.value for kind in InferenceType)


@dataclass(frozen=True, slots=True)
class NamedAt:
    """A name and where it is given."""

    name: str
    location: Location


def clashes(names: Sequence[NamedAt]) -> Iterator[tuple[Location, str]]:
    """Each name that is taken already, by an earlier one or by a kind of inference, with the remedy."""
    first: dict[str, Location] = {}
    for named in names:
        if named.name in _TYPE_NAMES:
            yield named.location, f'"{named.name}" is a kind of inference and cannot name a model; choose another name'
        elif named.name in first:
            other = first[named.name]
            yield named.location, f'"{named.name}" already names models[{other[1]}]; every name must be given once'
        else:
            first[named.name] = named.location


def names_in(models: object) -> list[NamedAt]:
    """Every name in a raw list of entries; what is not text is left to validation."""
    entries = models if isinstance(models, list) else []
    return [named for index, entry in enumerate(entries) if isinstance(entry, dict) for named in _names(index, entry)]


def _names(index: int, entry: dict[str, object]) -> Iterator[NamedAt]:
    model_id, aliases = entry.get("model_id"), entry.get("aliases")
    if isinstance(model_id, str):
        yield NamedAt(model_id, ("models", index, "model_id"))
    for position, alias in enumerate(aliases if isinstance(aliases, list) else []):
        if isinstance(alias, str):
            yield NamedAt(alias, ("models", index, "aliases", position))
