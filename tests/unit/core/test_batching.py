"""The batching policy case by case: limits, keys, lingering, displacement."""

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.core.batching import BatchRules, Feed, Mode, RowMemory, can_batch, feed, prepare_batch, rules_for
from controlplane.core.model import RequestHead

NOW = 1000.0


@dataclass(frozen=True)
class At:
    """What is at the engine."""

    held: tuple[RequestHead, ...] = ()

    @property
    def rows(self) -> int:
        return sum(head.rows for head in self.held)


def rank(head: RequestHead) -> float:
    return head.enqueued_at - 6.0 * head.priority


def head(name: str, *, priority: int = 50, ago: float = 0.0, rows: int = 1, key: str = "") -> RequestHead:
    return RequestHead(name, "m", priority, NOW - ago, rows=rows, key=key)


def fed(rules: BatchRules, front: Sequence[RequestHead], held: Sequence[RequestHead] = ()) -> Feed:
    return feed(rules, At(tuple(held)), front, rank, NOW)


def names(result: Feed) -> str:
    return " ".join(h.request_id for h in result.heads)


def test_a_continuous_engine_is_filled_to_its_slots_and_no_further() -> None:
    """Priority makes no difference at a full one: it would only wait there."""
    rules = rules_for(Mode.CONTINUOUS, 2, 2, linger_seconds=9.0)
    assert rules.linger_seconds == 0
    assert names(fed(rules, [head("b")], [head("a")])) == "b"
    assert fed(rules, [head("c", priority=100)], [head("a"), head("b")]) == Feed()


def test_a_higher_request_goes_beyond_a_full_batch_when_the_engine_displaces() -> None:
    """Because it runs there at once; an equal one would wait there, so it waits here."""
    rules = rules_for(Mode.STEPS, 2, 2)
    held = [head("a"), head("b")]
    assert fed(rules, [head("equal")], held) == Feed()
    assert names(fed(rules, [head("higher", priority=51)], held)) == "higher"


def test_no_more_than_one_batch_beyond() -> None:
    """However urgent: what was put aside already takes memory in the engine."""
    rules = rules_for(Mode.STEPS, 2, 2)
    held = [head(str(p), priority=p) for p in (10, 20, 30)]
    assert names(fed(rules, [head("x", priority=40)], held)) == "x"
    assert fed(rules, [head("y", priority=100)], [*held, head("x", priority=40)]) == Feed()


def test_a_request_for_several_images_joins_row_by_row() -> None:
    """One free row is enough, so that no row idles; and no request counts for more than it can use."""
    rules = rules_for(Mode.STEPS, 4, 4)
    assert rules.rows(10) == 4
    assert names(fed(rules, [head("n", rows=4)], [head("a", rows=3)])) == "n"
    assert fed(rules, [head("n", rows=4)], [head("a", rows=4)]) == Feed()


def test_who_has_aged_past_a_newcomer_is_not_put_aside_for_it() -> None:
    """At 6 s a point, 60 s are worth 10 points: then the older one stays in the batch."""
    rules = rules_for(Mode.STEPS, 1, 1)
    assert names(fed(rules, [head("new", priority=60)], [head("old", ago=59)])) == "new"
    assert fed(rules, [head("new", priority=60)], [head("old", ago=61)]) == Feed()


def test_a_call_takes_what_is_alike_in_order() -> None:
    """Others keep their place; behind the first of its kind that does not fit nobody slips in."""
    rules = rules_for(Mode.CALLS, 4, 4)
    line = [head("a", rows=2), head("b", key="large"), head("c", rows=1), head("d", rows=2), head("e", rows=1)]
    assert can_batch(line[0], line[2])
    assert not can_batch(line[0], line[1])
    assert [h.request_id for h in prepare_batch(rules, line)] == ["a", "c"]


def test_an_idle_engine_lingers_for_company_and_not_longer() -> None:
    """Until the first of those who wait, of whatever kind, has waited for the linger."""
    rules = rules_for(Mode.CALLS, 4, 4, linger_seconds=0.5)
    assert fed(rules, [head("a", ago=0.1)]) == Feed(until=NOW + 0.4)
    assert fed(rules, [head("a", ago=0.1), head("b", ago=0.2, key="large")]) == Feed(until=NOW + 0.3)
    assert names(fed(rules, [head("a", ago=0.5), head("b", ago=0.1)])) == "a b"


def test_a_full_batch_does_not_linger() -> None:
    """Neither when its rows are full nor when the next one alike would not fit."""
    rules = rules_for(Mode.CALLS, 4, 4, linger_seconds=0.5)
    assert names(fed(rules, [head(name) for name in "abcde"])) == "a b c d"
    assert names(fed(rules, [head("a", rows=3), head("b", rows=2)])) == "a"


def test_a_running_call_is_left_alone() -> None:
    """Who comes meanwhile waits here, where priority is ours; unless the depth has room for another whole batch."""
    held = [head("a")]
    assert fed(rules_for(Mode.CALLS, 4, 4), [head("b", ago=9)], held) == Feed()
    assert names(fed(rules_for(Mode.CALLS, 4, 8), [head("b", ago=9)], held)) == "b"


def test_memory_limits_the_rows() -> None:
    """Where it is known what a row takes, no more are computed together than fit; one is always tried."""
    assert rules_for(Mode.STEPS, 8, 8, memory=RowMemory(spare_mib=3000, row_mib=1000)).batch_rows == 3
    assert rules_for(Mode.STEPS, 8, 8, memory=RowMemory(spare_mib=100, row_mib=1000)).batch_rows == 1
    assert rules_for(Mode.CALLS, 8, 8, 0.5, RowMemory(spare_mib=100, row_mib=1000)).linger_seconds == 0


def test_an_empty_line_feeds_nobody() -> None:
    """In every mode."""
    assert {fed(rules_for(mode, 2, 2, 1.0), []) for mode in Mode} == {Feed()}
