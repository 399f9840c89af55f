"""The real dispatcher and the batching policy against everything that callers and an engine can do, in any order."""

from __future__ import annotations

from feeding import EPOCH, SECONDS_PER_POINT, Feeding
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.core.batching import BatchRules, Mode, rules_for
from controlplane.core.model import RequestHead

_priorities = st.sampled_from([0, 20, 50, 50, 50, 80, 100])
_rows = st.sampled_from([1, 1, 1, 2, 3, 10])
_keys = st.sampled_from(["small", "small", "large"])
_LINGER = 0.05


@st.composite
def _rules(draw: st.DrawFn) -> BatchRules:
    batch = draw(st.integers(1, 4))
    depth = draw(st.sampled_from([batch, batch, batch + 1, 2 * batch, 1]))
    return rules_for(draw(st.sampled_from(Mode)), batch, depth, draw(st.sampled_from([0.0, _LINGER])))


class BatchingMachine(RuleBasedStateMachine):
    """Claim: an engine is full whenever somebody waits, never beyond its limit, and fed in the order of the line."""

    @initialize(rules=_rules())
    def build(self, rules: BatchRules) -> None:
        self.feeding = Feeding(rules)
        self.line: list[RequestHead] = []  # who waited when the last grants were looked at
        self.seen = 0
        self.is_open = True

    @rule(priority=_priorities, rows=_rows, key=_keys)
    def submit(self, priority: int, rows: int, key: str) -> None:
        self.line.append(self.feeding.submit(priority, self._rows(rows), key))
        self._check_grants()

    @rule(priority=_priorities, key=_keys, count=st.integers(2, 6))
    def burst(self, priority: int, key: str, count: int) -> None:
        for _ in range(count):
            self.submit(priority, 1, key)

    @precondition(lambda self: self.feeding.tickets)
    @rule(data=st.data())
    def caller_leaves(self, data: st.DataObject) -> None:
        head = data.draw(st.sampled_from([ticket.head for ticket in self.feeding.tickets.values()]))
        self.line.remove(head)
        self.feeding.leave(head)
        self._check_grants()

    @precondition(lambda self: self.feeding.running)
    @rule(data=st.data())
    def answer_ends(self, data: st.DataObject) -> None:
        """Any of them, for callers break off too."""
        self.feeding.finish(data.draw(st.sampled_from(self.feeding.running)))
        self._check_grants()

    @rule()
    def engine_steps(self) -> None:
        self.feeding.step()
        self._check_grants()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.04, 0.05, 1.0, 200.0, 900.0]))
    def advance(self, seconds: float) -> None:
        self.feeding.pass_time(seconds)
        self._check_grants()

    @rule()
    def door_moves(self) -> None:
        """A cordon, or its end."""
        self.is_open = not self.is_open
        self.feeding.set_open(is_open=self.is_open)
        self._check_grants()

    @invariant()
    def never_too_much(self) -> None:
        """Rows at the engine stay within the depth; only one that displaces takes a batch more, for the higher."""
        if not hasattr(self, "feeding"):
            return
        rules, rows = self.feeding.rules, self.feeding.slots.rows
        assert rows == sum(run.lease.head.rows for run in self.feeding.running)
        assert self.feeding.slots.leases == len(self.feeding.running)
        # The request that crosses a line brings all its rows.
        crossing = rules.batch_rows - 1 if rules.mode is Mode.STEPS else 0
        beyond = rules.batch_rows + crossing if rules.displaces else 0
        assert rows <= max(rules.depth_rows, rules.batch_rows if rules.gathers else 0) + beyond

    @invariant()
    def never_too_little(self) -> None:
        """Nobody waits beside an engine that could take them; a wait for company has an end that the loop knows."""
        if not hasattr(self, "feeding") or not self.is_open or not self.feeding.waiting():
            return
        rules, rows, waiting = self.feeding.rules, self.feeding.slots.rows, self.feeding.waiting()
        if rules.displaces:
            assert rows + waiting[0].rows > rules.at_once_rows
            assert rows >= rules.depth_rows or self._spares_the_aged(waiting[0])
            assert not self._runs_at_once(waiting[0]) or rows >= rules.depth_rows + rules.batch_rows
        elif not rules.gathers:
            assert rows >= rules.depth_rows
        elif rows == 0:
            due = self.feeding.dispatcher.wake_at()
            assert due is not None
            assert self.feeding.now < due <= min(head.enqueued_at for head in waiting) + rules.linger_seconds

    @invariant()
    def nothing_is_due_for_nobody(self) -> None:
        """An engine stops lingering when the last who waited leaves; else the loop would spin."""
        if hasattr(self, "feeding") and not self.feeding.waiting():
            assert self.feeding.dispatcher.wake_at() is None

    def teardown(self) -> None:
        """Everybody is served in the end, within as many steps as their rows need one after the other."""
        if not hasattr(self, "feeding"):
            return
        if not self.is_open:
            self.door_moves()
        everybody = self.feeding.waiting() + [run.lease.head for run in self.feeding.running]
        for _ in range(self.feeding.steps * len(everybody)):
            self.feeding.pass_time(_LINGER)
            self.engine_steps()
        assert not self.feeding.waiting()
        assert not self.feeding.running
        assert self.feeding.dispatcher.wake_at() is None
        self.feeding.close()

    def _rows(self, rows: int) -> int:
        return rows if self.feeding.rules.counts_rows else 1

    def _spares_the_aged(self, head: RequestHead) -> bool:
        """Whether a lower one at the engine has aged past it."""
        held = [run.lease.head for run in self.feeding.running]
        return any(h.priority < head.priority and self.feeding.rank(h) < self.feeding.rank(head) for h in held)

    def _runs_at_once(self, head: RequestHead) -> bool:
        """By the plainest reading: higher than enough of those at the engine, and none of them aged past it."""
        rules = self.feeding.rules
        ahead = sum(r.lease.head.rows for r in self.feeding.running if r.lease.head.priority >= head.priority)
        return ahead < min(rules.batch_rows, rules.depth_rows) and not self._spares_the_aged(head)

    def _check_grants(self) -> None:
        """First in line goes first; only riders of the same call go with one who stands before others."""
        granted = self.feeding.granted[self.seen :]
        self.seen = len(self.feeding.granted)
        while granted:
            first = min(self.line, key=self.feeding.rank)
            assert first in granted, f"{granted} went before {first}"
            going = [h for h in granted if h.key == first.key] if self.feeding.rules.gathers else [first]
            alike = [h for h in self.line if h.key == first.key or not self.feeding.rules.gathers]
            assert set(going) == set(sorted(alike, key=self.feeding.rank)[: len(going)]), "not in order among equals"
            granted = [h for h in granted if h not in going]
            self.line = [h for h in self.line if h not in going]


TestBatchingMachine = BatchingMachine.TestCase
TestBatchingMachine.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=40)


@given(
    batch=st.integers(1, 4),
    depth_more=st.integers(0, 2),
    rows=st.integers(1, 4),
    low=st.integers(1, 40),
    gap=st.integers(1, 60),
)
def test_who_was_put_aside_ages_back_in(batch: int, depth_more: int, rows: int, low: int, gap: int) -> None:
    """Steady higher traffic that fills the engine alone puts a lower request aside only until that has aged past it.

    All but the lowest of all: that is for work which people always go before.
    """
    feeding = Feeding(rules_for(Mode.STEPS, batch, batch + depth_more))
    patient = feeding.submit(low)
    end_of_lead = EPOCH + gap * SECONDS_PER_POINT
    most_rows_ahead = batch + depth_more + 2 * batch
    while patient not in feeding.finished:
        while len(feeding.waiting()) < 2 * batch:
            feeding.submit(low + gap, rows)
        feeding.step()
        feeding.pass_time(1.0)
        assert feeding.now <= end_of_lead + feeding.steps * (most_rows_ahead + 1), "put aside for ever"
    feeding.close()


def test_a_request_for_several_does_not_put_the_aged_aside() -> None:
    """Also when nobody waits: it would fill more than the free row, and the engine goes by priority."""
    feeding = Feeding(rules_for(Mode.STEPS, 2, 2))
    patient = feeding.submit(1)
    feeding.pass_time(100 * SECONDS_PER_POINT + 1)
    several = feeding.submit(100, rows=2)
    one = feeding.submit(100)
    assert feeding.waiting() == [several, one]

    feeding.finish(feeding.running[0])

    assert feeding.granted == [patient, several]
    feeding.close()
