"""The wait queue against a plain sorted list, and what its order promises."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from planner_world import EPOCH, World, model

from controlplane.core.model import RequestHead
from controlplane.core.planner import plan
from controlplane.core.queue import BACKGROUND_SECONDS, WaitQueue

_MODELS = ("A", "B", "C")
_priorities = st.integers(0, 100)
_gaps = st.sampled_from([0.0, 0.0, 0.5, 6.0, 300.0])


def _behind(priority: int) -> float:
    return 0.0 if priority else BACKGROUND_SECONDS


class QueueMachine(RuleBasedStateMachine):
    """Claim: the queue is a list sorted by rank and then by order of pushing, for each model and for deadlines."""

    @initialize(seconds_per_point=st.sampled_from([0.0, 1.0, 6.0]))
    def build(self, seconds_per_point: float) -> None:
        self.seconds_per_point = seconds_per_point
        self.queue = WaitQueue(seconds_per_point)
        self.line: list[RequestHead] = []  # in order of pushing
        self.taken: list[RequestHead] = []
        self.now = EPOCH
        self.count = 0

    @rule(model_id=st.sampled_from(_MODELS), priority=_priorities, patience=st.sampled_from([None, 0.0, 6.0, 90.0]))
    def push(self, model_id: str, priority: int, patience: float | None) -> None:
        self.count += 1
        deadline = None if patience is None else self.now + patience
        head = RequestHead(f"r{self.count}", model_id, priority, self.now, deadline)
        self.queue.push(head)
        self.line.append(head)

    @rule(seconds=_gaps)
    def advance(self, seconds: float) -> None:
        self.now += seconds

    @rule(model_id=st.sampled_from(_MODELS))
    def pop(self, model_id: str) -> None:
        expected = next(iter(self._ordered(model_id)), None)
        assert self.queue.pop(model_id) == expected
        if expected is not None:
            self.line.remove(expected)
            self.taken.append(expected)

    @precondition(lambda self: getattr(self, "taken", None))
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        """A failed try goes back with its old rank: ahead of everybody who came later at its priority."""
        head = data.draw(st.sampled_from(self.taken))
        self.taken.remove(head)
        self.queue.push(head)
        self.line.append(head)

    @precondition(lambda self: getattr(self, "line", None))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        head = data.draw(st.sampled_from(self.line))
        assert self.queue.remove(head.request_id) == head
        self.line.remove(head)
        assert self.queue.remove(head.request_id) is None

    @precondition(lambda self: getattr(self, "line", None))
    @rule(data=st.data())
    def push_twice(self, data: st.DataObject) -> None:
        """A request stands in line once; the refused push changes nothing."""
        try:
            self.queue.push(data.draw(st.sampled_from(self.line)))
        except ValueError:
            return
        raise AssertionError("the same request waits twice")

    @rule()
    def expire(self) -> None:
        late = {h.request_id for h in self.line if h.deadline_at is not None and h.deadline_at <= self.now}
        expired = self.queue.expired(self.now)
        assert {h.request_id for h in expired} == late
        deadlines = [h.deadline_at for h in expired]
        assert deadlines == sorted(deadlines)  # type: ignore[type-var]
        self.line = [h for h in self.line if h.request_id not in late]

    @invariant()
    def agrees_with_the_list(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert len(self.queue) == len(self.line)
        assert {h.request_id for h in self.queue} == {h.request_id for h in self.line}
        assert self.queue.next_deadline() == min((h.deadline_at for h in self.line if h.deadline_at), default=None)
        assert set(self.queue.demands()) == {h.model_id for h in self.line}
        for model_id in _MODELS:
            self._agrees_for(model_id)

    def _agrees_for(self, model_id: str) -> None:
        ordered = self._ordered(model_id)
        assert self.queue.waiting(model_id) == len(ordered)
        assert [self.queue.position(h.request_id) for h in ordered] == list(range(1, len(ordered) + 1))
        for head in ordered:
            assert head.request_id in self.queue
            assert self.queue.get(head.request_id) == head
            assert self.queue.rank(head) == self._rank(head)
        if ordered:
            first, demand = ordered[0], self.queue.demands()[model_id]
            assert (demand.waiting, demand.head_rank) == (len(ordered), self._rank(first))
            assert (demand.head_priority, demand.head_enqueued_at) == (first.priority, first.enqueued_at)

    def _ordered(self, model_id: str) -> list[RequestHead]:
        return sorted((h for h in self.line if h.model_id == model_id), key=self._rank)

    def _rank(self, head: RequestHead) -> float:
        return head.enqueued_at + _behind(head.priority) - head.priority * self.seconds_per_point


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(stateful_step_count=40)


@given(
    p=_priorities,
    q=_priorities,
    asked=st.floats(0, 1e4),
    later=st.floats(0, 1e4),
    seconds_per_point=st.floats(0, 60),
)
def test_the_order_is_that_of_ageing_priorities(
    p: int, q: int, asked: float, later: float, seconds_per_point: float
) -> None:
    """First goes whose priority, grown by its waiting, is the highest; the lowest counts as a day younger."""
    queue = WaitQueue(seconds_per_point)
    queue.push(RequestHead("old", "A", p, EPOCH + asked))
    queue.push(RequestHead("new", "A", q, EPOCH + asked + later))
    lead = (p - q) * seconds_per_point + later + _behind(q) - _behind(p)
    if abs(lead) < 1e-6:
        return
    first = queue.pop("A")
    assert first is not None
    assert first.request_id == ("old" if lead > 0 else "new")


@given(p=_priorities, arrivals=st.lists(st.tuples(_priorities, st.floats(0, 2e5)), max_size=30))
def test_nothing_waits_for_ever(p: int, arrivals: list[tuple[int, float]]) -> None:
    """Nobody who comes (100 - p) points of ageing later gets ahead, however urgent; at the lowest, a day more."""
    queue = WaitQueue(6.0)
    queue.push(RequestHead("old", "A", p, EPOCH))
    for n, (priority, after) in enumerate(arrivals):
        queue.push(RequestHead(f"r{n}", "A", priority, EPOCH + after))
    overtakers = [after for priority, after in arrivals if after > (100 - p) * 6.0 + _behind(p) + 1e-6]
    position = queue.position("old")
    assert position is not None
    assert position <= 1 + len(arrivals) - len(overtakers)


class _Counted(float):
    """A time that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        _Counted.compared += 1
        return float.__lt__(self, other)

    def __eq__(self, other: object) -> bool:
        _Counted.compared += 1
        return float.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __sub__(self, other: float) -> _Counted:
        return _Counted(float(self) - other)

    __hash__ = float.__hash__


def _comparisons(length: int, work: Callable[[WaitQueue, int], None]) -> int:
    queue = WaitQueue(6.0)
    for n in range(length):
        queue.push(RequestHead(f"r{n}", "A", n % 101, _Counted(EPOCH + n), _Counted(EPOCH + 600.0)))
    _Counted.compared = 0
    for n in range(100):
        work(queue, length * n // 100)
    return _Counted.compared


def _push(queue: WaitQueue, n: int) -> None:
    queue.push(RequestHead(f"more{n}", "A", n % 101, _Counted(EPOCH + n), _Counted(EPOCH + 600.0)))


def _pop(queue: WaitQueue, n: int) -> None:
    queue.pop("A")


def _cancel(queue: WaitQueue, n: int) -> None:
    queue.remove(f"r{n}")


def _locate(queue: WaitQueue, n: int) -> None:
    queue.position(f"r{n}")


def test_no_operation_grows_with_the_queue() -> None:
    """A hundred times as many waiting, all with one deadline, cost at most three times the comparisons."""
    for work in (_push, _pop, _cancel, _locate):
        short, long = _comparisons(1_000, work), _comparisons(100_000, work)
        assert long <= 3 * short, f"{work.__name__}: {short} comparisons became {long}"


def _calls_of(work: Callable[[], object]) -> int:
    calls = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def test_a_plan_costs_the_same_however_many_wait() -> None:
    """Residency works on totals: a plan for 100,000 waiting takes about as many calls as one for ten."""
    cost = {}
    for length in (10, 100_000):
        world = World([model("A", 80), model("B", 80), model("C", 40)], [100])
        for n in range(length):
            world.submit(_MODELS[n % 3])
        cost[length] = _calls_of(lambda w=world: plan(w.snapshot(), w.now))
    assert cost[100_000] < 3 * cost[10]
