"""Callers and jobs in one line: the best rank goes first, each is granted once, whatever is ordered meanwhile."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from feeding import MODEL, Feeding
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.core.batching import BatchRules, Mode
from controlplane.core.model import RequestHead
from controlplane.core.queue import WaitQueue
from controlplane.errors import RequestRejected
from controlplane.loop.dispatcher import Lease
from controlplane.loop.rejections import closing

T = TypeVar("T")

SLOTS = 2
_PRIORITIES = st.integers(0, 100)


class Begun:
    """Takes over granted jobs and those whose deadline came; sees to it that nobody better waits."""

    def __init__(self, queue: WaitQueue) -> None:
        self.leases: list[Lease] = []
        self.expired: list[str] = []
        self._queue = queue

    def begin(self, lease: Lease) -> None:
        assert all(self._queue.rank(lease.head) <= self._queue.rank(head) for head in self._queue)
        self.leases.append(lease)

    def expire(self, head: RequestHead, rejection: RequestRejected) -> None:
        self.expired.append(head.request_id)


class LineMachine(RuleBasedStateMachine):
    """A dispatcher on real slots. Jobs are numbered below zero so that they are told from callers."""

    @initialize()
    def open(self) -> None:
        self.feeding = Feeding(BatchRules(Mode.CONTINUOUS, batch_rows=SLOTS, depth_rows=SLOTS))
        self.begun = Begun(self.feeding.world.queue)
        self.feeding.dispatcher.jobs = self.begun
        self.jobs = 0
        self.withdrawn: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "feeding"):
            self.feeding.close()

    @rule(priority=_PRIORITIES)
    def call(self, priority: int) -> None:
        self.feeding.submit(priority)

    @rule(data=st.data())
    @precondition(lambda self: self.feeding.running)
    def answer(self, data: st.DataObject) -> None:
        """A caller has its answer."""
        self.feeding.finish(data.draw(st.sampled_from(self.feeding.running)))

    @rule(data=st.data())
    @precondition(lambda self: self.feeding.tickets)
    def leave(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.feeding.tickets)))
        self.feeding.leave(self.feeding.tickets[request_id].head)

    @rule(priority=_PRIORITIES, patience=st.none() | st.integers(1, 50))
    def enqueue(self, priority: int, patience: int | None) -> None:
        self.jobs += 1
        now = self.feeding.now
        deadline = None if patience is None else now + patience
        head = RequestHead(f"-{self.jobs}", MODEL, priority, now, deadline)
        for _ in range(2):
            # Found twice, as it is when the line is read again: it stands there once.
            if head.request_id not in {lease.head.request_id for lease in self.begun.leases}:
                self._do(lambda: self.feeding.dispatcher.enqueue(head))

    @rule(data=st.data(), priority=_PRIORITIES)
    def reprioritise(self, data: st.DataObject, priority: int) -> None:
        request_id = self._some_job(data)
        waited = request_id in self.feeding.world.queue
        assert self._do(lambda: self.feeding.dispatcher.reprioritise(request_id, priority)) == waited

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        request_id = self._some_job(data)
        if self._do(lambda: self.feeding.dispatcher.withdraw(request_id)) is not None:
            self.withdrawn.add(request_id)

    @rule(data=st.data())
    @precondition(lambda self: self.begun.leases)
    def put_back(self, data: st.DataObject) -> None:
        """A try is over: the slot goes to the best of all, the job itself included."""
        lease = data.draw(st.sampled_from(self.begun.leases))
        self.begun.leases.remove(lease)
        self._do(lambda: self.feeding.dispatcher.release(lease))
        self._do(lambda: self.feeding.dispatcher.enqueue(replace(lease.head, deadline_at=None)))

    @rule(data=st.data())
    @precondition(lambda self: self.begun.leases)
    def end(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.begun.leases))
        self.begun.leases.remove(lease)
        self._do(lambda: self.feeding.dispatcher.release(lease))

    @rule(seconds=st.integers(1, 40))
    def pass_time(self, seconds: int) -> None:
        self.feeding.now += seconds
        self._do(lambda: self.feeding.dispatcher.expire(self.feeding.now, lambda _: "nothing"))

    @rule()
    @precondition(lambda self: not self.feeding.tickets)
    def close(self) -> None:
        """Nobody waits, nobody is granted; jobs are forgotten here and known to the store. Then a new life begins."""
        self._do(lambda: self.feeding.dispatcher.close(closing()))
        before = len(self.begun.leases)
        head = RequestHead("-late", MODEL, 50, self.feeding.now)
        self._do(lambda: self.feeding.dispatcher.enqueue(head))
        assert (len(self.feeding.world.queue), len(self.begun.leases)) == (0, before)
        self.feeding.close()
        self.open()

    @invariant()
    def nobody_waits_beside_a_free_slot(self) -> None:
        if hasattr(self, "feeding") and len(self.feeding.world.queue):
            assert self.feeding.slots.leases == SLOTS

    @invariant()
    def every_lease_is_held_once(self) -> None:
        if hasattr(self, "feeding"):
            held = [lease.head.request_id for lease in self.begun.leases]
            assert len(held) == len(set(held))
            assert not set(held) & self.withdrawn
            assert not set(held) & set(self.begun.expired)
            assert self.feeding.slots.leases == len(held) + len(self.feeding.running)
            waiting = sum(not head.request_id.startswith("-") for head in self.feeding.world.queue)
            assert self.feeding.dispatcher.callers() == self.feeding.dispatcher.callers(MODEL) == waiting

    def _do(self, work: Callable[[], T]) -> T:
        results: list[T] = []
        self.feeding.do(lambda: results.append(work()))
        return results[0]

    def _some_job(self, data: st.DataObject) -> str:
        return f"-{data.draw(st.integers(1, self.jobs + 1))}"


LineMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class TestJobsInLine(LineMachine.TestCase):
    """Nobody better waits when one is granted, no slot stays free beside who waits, nobody is granted twice."""
