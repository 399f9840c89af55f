"""How often a job is tried."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.core.model import Outcome
from controlplane.core.tries import MAX_FAILED, MAX_INTERRUPTED, may_be_tried

_OUTCOMES = st.lists(st.sampled_from([Outcome.FAILED, Outcome.INTERRUPTED, Outcome.CANCELLED, None]), max_size=20)


@given(tries=_OUTCOMES)
def test_what_was_not_its_fault_is_not_counted(tries: list[Outcome | None]) -> None:
    """Tries that never began, or were ended by us, change nothing."""
    counted = [outcome for outcome in tries if outcome in (Outcome.FAILED, Outcome.INTERRUPTED)]
    assert may_be_tried(tries) == may_be_tried(counted)


@given(tries=_OUTCOMES)
def test_a_job_is_not_tried_for_ever(tries: list[Outcome | None]) -> None:
    """However tries end, there is a last one; and one more try never makes another one possible."""
    ended = 0
    while may_be_tried([*tries[:ended], Outcome.INTERRUPTED]) and ended < len(tries):
        ended += 1
    assert sum(outcome is Outcome.FAILED for outcome in tries[:ended]) <= MAX_FAILED
    assert sum(outcome is Outcome.INTERRUPTED for outcome in tries[:ended]) <= MAX_INTERRUPTED
    if not may_be_tried(tries):
        assert not may_be_tried([*tries, Outcome.INTERRUPTED])


def test_three_failures_and_five_deaths() -> None:
    """The numbers that the documentation names."""
    assert may_be_tried([Outcome.FAILED] * 2 + [Outcome.INTERRUPTED] * 4)
    assert not may_be_tried([Outcome.FAILED] * 3)
    assert not may_be_tried([Outcome.INTERRUPTED] * 5)
