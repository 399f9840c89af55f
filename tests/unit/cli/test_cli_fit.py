"""The arithmetic of `inferctl check`, against plain definitions of fitting."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from controlplane.cli.fit import EXACT_UP_TO, Need, fit_at_once, places, together

sizes = st.lists(st.integers(1, 12), max_size=5)
rooms = st.lists(st.integers(0, 20), min_size=1, max_size=3)


def by_trying_everything(wanted: list[int], available: list[int]) -> bool:
    """Whether any assignment of each size to a room overfills none."""
    return any(
        all(sum(s for s, at in zip(wanted, spots, strict=True) if at == room) <= available[room] for room in spots)
        for spots in product(range(len(available)), repeat=len(wanted))
    )


@given(wanted=sizes, available=rooms)
def test_fitting_at_once_is_exact(wanted: list[int], available: list[int]) -> None:
    """It says yes exactly when some assignment works."""
    assert fit_at_once(wanted, available) == by_trying_everything(wanted, available)


@given(wanted=sizes, available=rooms)
def test_sets_are_maximal_and_complete(wanted: list[int], available: list[int]) -> None:
    """Every set fits, no set can take one more, and each model that fits anywhere is in one."""
    needs = [Need(f"m{n}", size, n * 10) for n, size in enumerate(wanted)]
    budgets = {f"gpu{n}": room for n, room in enumerate(available)}
    groups = together(needs, budgets)
    for group in groups:
        assert by_trying_everything([need.mib for need in group], available)
        for other in set(needs) - set(group):
            assert not by_trying_everything([need.mib for need in (*group, other)], available)
    placed = {need for group in groups for need in group}
    assert placed == {need for need in needs if places(need, budgets)}


def test_many_models_give_one_set_by_priority() -> None:
    """Beyond the exact limit the answer stays quick: what fits, in order of priority."""
    needs = [Need(f"m{n}", 10, n) for n in range(EXACT_UP_TO + 20)]
    (group,) = together(needs, {"gpu0": 35})
    assert [need.priority for need in group] == [29, 28, 27]
