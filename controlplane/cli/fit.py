"""Which models fit on the devices, alone and together. Pure; exact for the few models a host has."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

# Beyond this the number of sets is for machines, not people: then one set, by priority, is shown.
EXACT_UP_TO = 10


@dataclass(frozen=True, slots=True)
class Need:
    """A model's claim: how much memory it takes on one device, and how much it matters."""

    model_id: str
    mib: int
    priority: int


def places(need: Need, budgets: Mapping[str, int]) -> list[str]:
    """The devices on which the model fits when it is alone there."""
    return [device_id for device_id, budget in budgets.items() if need.mib <= budget]


def together(needs: Sequence[Need], budgets: Mapping[str, int]) -> list[tuple[Need, ...]]:
    """The largest sets of models that can be resident at the same time, most important first.

    No set is part of another. Models that fit nowhere are in none.
    """
    possible = sorted((need for need in needs if places(need, budgets)), key=lambda need: -need.priority)
    rooms = sorted(budgets.values(), reverse=True)
    if len(possible) > EXACT_UP_TO:
        return [_by_priority(possible, rooms)]
    return sorted(_maximal(possible, rooms), key=lambda group: -sum(need.priority for need in group))


def fit_at_once(sizes: Sequence[int], rooms: Sequence[int]) -> bool:
    """Whether all sizes find a place, each whole in one room."""
    if not sizes:
        return True
    first, *rest = sorted(sizes, reverse=True)
    # Rooms of the same size are interchangeable: trying one of them is enough.
    for room in dict.fromkeys(rooms):
        if first > room:
            continue
        left = list(rooms)
        left[left.index(room)] -= first
        if fit_at_once(rest, left):
            return True
    return False


def _maximal(needs: Sequence[Need], rooms: Sequence[int]) -> list[tuple[Need, ...]]:
    found: list[tuple[Need, ...]] = []
    for group in _largest_first(needs):
        covered = any(set(group) <= set(larger) for larger in found)
        if not covered and fit_at_once([need.mib for need in group], rooms):
            found.append(group)
    return found


def _largest_first(needs: Sequence[Need]) -> Iterator[tuple[Need, ...]]:
    for size in range(len(needs), 0, -1):
        yield from combinations(needs, size)


def _by_priority(needs: Sequence[Need], rooms: Sequence[int]) -> tuple[Need, ...]:
    chosen: tuple[Need, ...] = ()
    for need in needs:
        if fit_at_once([other.mib for other in (*chosen, need)], rooms):
            chosen = (*chosen, need)
    return chosen
