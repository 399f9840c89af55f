"""How often a job is tried: only what failed is spent, but what keeps dying while it runs may be what kills engines."""

from collections.abc import Iterable

from controlplane.core.model import Outcome

MAX_FAILED = 3
MAX_INTERRUPTED = 5


def may_be_tried(tries: Iterable[Outcome | None]) -> bool:
    """Whether there is another try after these. Tries that were cancelled never began, or were ended by us."""
    outcomes = list(tries)
    return outcomes.count(Outcome.FAILED) < MAX_FAILED and outcomes.count(Outcome.INTERRUPTED) < MAX_INTERRUPTED
