"""Who goes through the denoiser next: decisions over every mix of priorities, arrivals and keys. No tensors."""

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from engines.diffusers.limits import RowLimits
from engines.diffusers.order import Claim, Place, displaced, next_call, to_start


def _claims(wanted: list[tuple[int, str]]) -> list[Claim]:
    return [Claim(Place(priority, arrival), key) for arrival, (priority, key) in enumerate(wanted)]


PRIORITIES = st.integers(0, 3)
CLAIMS = st.lists(st.tuples(PRIORITIES, st.sampled_from("abc")), min_size=1, max_size=20).map(_claims)
PLACES = st.lists(PRIORITIES, max_size=20).map(
    lambda priorities: [Place(priority, arrival) for arrival, priority in enumerate(priorities)]
)


@given(claims=CLAIMS, most=st.integers(1, 8))
def test_a_call_is_full_of_the_best_that_mix(claims: list[Claim], most: int) -> None:
    """The best rank is in it, all keys are its own, and nobody left out ranks before anybody taken of that key."""
    chosen = next_call(claims, most)
    best = min(claims, key=lambda claim: claim.place.rank)
    alike = [claim for claim in claims if claim.key == best.key]
    assert chosen[0] == best
    assert {claim.key for claim in chosen} == {best.key}
    assert len(chosen) == min(most, len(alike)) == len(set(chosen))
    assert all(one.place.rank < other.place.rank for one in chosen for other in set(alike) - set(chosen))


@given(claims=CLAIMS, most=st.integers(1, 8))
def test_the_order_of_the_question_does_not_matter(claims: list[Claim], most: int) -> None:
    """The same claims in another order get the same answer."""
    assert next_call(claims, most) == next_call(claims[::-1], most)


@given(
    jobs=st.lists(st.tuples(PRIORITIES, st.sampled_from("ab"), st.integers(1, 5), st.integers(0, 10)), max_size=15),
    most=st.integers(1, 4),
)
def test_everyone_ends_and_equals_are_not_overtaken(jobs: list[tuple[int, str, int, int]], most: int) -> None:
    """Jobs that arrive over time all finish; of two alike in priority, key and length the older never ends later."""
    claims = {Place(job[0], number): job for number, job in enumerate(sorted(jobs, key=lambda job: job[3]))}
    left = {place: job[2] for place, job in claims.items()}
    ended: dict[Place, int] = {}
    for step in range(sum(left.values()) + 11):
        here = [Claim(place, claims[place][1]) for place in left if claims[place][3] <= step and place not in ended]
        for claim in next_call(here, most):
            left[claim.place] -= 1
            if left[claim.place] == 0:
                ended[claim.place] = step
    assert ended.keys() == left.keys()
    for (one, end), (other, later_end) in itertools.product(ended.items(), repeat=2):
        if claims[one][:3] == claims[other][:3] and one.arrival < other.arrival:
            assert end <= later_end


@given(waiting=PLACES, started=PLACES, most=st.integers(1, 8))
def test_started_are_the_best_ranks(waiting: list[Place], started: list[Place], most: int) -> None:
    """Exactly the waiting jobs that rank among the first so many of all are started, best first."""
    started = [Place(place.priority, place.arrival + 100) for place in started]
    first = sorted([*waiting, *started], key=lambda place: place.rank)[:most]
    assert list(to_start(waiting, started, most)) == [place for place in first if place in waiting]


@given(claims=CLAIMS, later=CLAIMS, most=st.integers(1, 3))
def test_only_a_higher_priority_displaces(claims: list[Claim], later: list[Claim], most: int) -> None:
    """Newcomers put aside who was served only with a higher priority; those put aside are counted, nobody else."""
    before = [claim.place for claim in next_call(claims, most)]
    joined = claims + [Claim(Place(claim.place.priority, claim.place.arrival + 100), claim.key) for claim in later]
    now = [claim.place for claim in next_call(joined, most)]
    out = displaced(before, now, [claim.place for claim in joined])
    assert out == set(before) - set(now)
    assert all(place.priority < max(other.priority for other in now) for place in out)
    assert not displaced(before, now, now)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=300), st.integers(1, 8))
def test_row_limits_stay_between_one_and_the_most(events: list[tuple[str, bool]], most: int) -> None:
    """Whatever fits or does not, a key's limit stays within bounds, and another key's trouble does not change it."""
    limits, failures = RowLimits(most), Counter[str]()
    for key, fits in events:
        rows = limits.of(key)
        if fits:
            limits.fitted(key, rows)
        else:
            failures[key] += 1
            limits.did_not_fit(key, rows)
            assert limits.of(key) == max(1, rows // 2)
        assert 1 <= limits.of(key) <= most
    assert all(limits.of(key) == most for key in "ab" if not failures[key])


def test_a_limit_grows_back() -> None:
    """After enough full calls that fit, one row more is tried, up to the most."""
    limits = RowLimits(4)
    limits.did_not_fit("a", 4)
    seen = []
    for _ in range(200):
        limits.fitted("a", limits.of("a"))
        seen.append(limits.of("a"))
    assert sorted(set(seen)) == [2, 3, 4]
    assert seen[-1] == 4
