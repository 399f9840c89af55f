"""How long, and how many, answers are kept."""

from hypothesis import given
from hypothesis import strategies as st

from engines.diffusers.results import KeptResults, Outcome
from engines.diffusers.wire import RequestState

MIB = 2**20


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def outcome(name: str, size: int = 10) -> Outcome:
    state = RequestState(
        id=name, created=0, status="finished", images_done=1, images_total=1, steps_done=1, steps_total=1, batch=1
    )
    return Outcome(200, name[:1].encode() * size, state)


def test_answers_are_forgotten_with_time() -> None:
    """Just before its time an answer is there, then it is not."""
    clock = Clock()
    results = KeptResults(600, 1, clock)
    results.keep("a", outcome("a"))
    clock.now += 599.9
    assert results.get("a") == outcome("a")
    clock.now += 0.1
    assert results.get("a") is None
    assert results.mib == 0


def test_the_oldest_make_room() -> None:
    """Above the limit the oldest go; an answer above it by itself is not kept and costs no other its place."""
    results = KeptResults(600, 2, Clock())
    for name in "abc":
        results.keep(name, outcome(name, MIB))
    results.keep("d", outcome("d", 2 * MIB + 1))
    assert [name for name in "abcd" if results.get(name)] == ["b", "c"]


def test_a_new_answer_replaces_the_old_one() -> None:
    """Under one id there is one answer, the last."""
    results = KeptResults(600, 1, Clock())
    results.keep("a", outcome("a"))
    results.keep("a", outcome("b"))
    assert results.get("a") == outcome("b")
    assert results.drop("a") == outcome("b")
    assert results.drop("a") is None


def test_zero_seconds_keep_nothing() -> None:
    """Keeping can be turned off."""
    results = KeptResults(0, 1, Clock())
    results.keep("a", outcome("a"))
    assert results.get("a") is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["keep", "get", "drop", "wait"]), st.sampled_from("abcde"), st.integers(0, 3 * MIB // 2)
        ),
        max_size=30,
    )
)
def test_never_more_than_the_limit(acts: list[tuple[str, str, int]]) -> None:
    """Whatever is kept, fetched and dropped: what is there fits, is in time, and is the last of its id."""
    clock, last = Clock(), {}
    results = KeptResults(10, 2, clock)
    for act, name, number in acts:
        if act == "keep":
            last[name] = (clock.now, outcome(name, number))
            results.keep(name, last[name][1])
        elif act == "get":
            found = results.get(name)
            assert found is None or (found == last[name][1] and clock.now < last[name][0] + 10)
        elif act == "drop":
            results.drop(name)
            last.pop(name, None)
        else:
            clock.now += number / MIB * 8
        there = [found for each in "abcde" if (found := results.get(each))]
        assert results.mib * MIB == sum(len(found.content) for found in there) <= 2 * MIB
