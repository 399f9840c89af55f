"""The lanes of callbacks over random receivers: limits hold, and those who never answer well cannot fill both."""

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controlplane.loop.callbacks.lanes import LaneRules, Lanes
from controlplane.store.deliveries import DueHead, Hosts

RULES = LaneRules(per_host=2, proven=4, others=3)
WELL = ("well-1", "well-2", "well-3")
BAD = tuple(f"bad-{n}" for n in range(8))


class LanesMachine(RuleBasedStateMachine):
    """Receivers `well` always answer well, `bad` never do; the model keeps who has proved itself."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes(RULES)
        self.running: dict[str, DueHead] = {}
        self.proven: set[str] = set()
        self.made = 0

    @rule(host=st.sampled_from(WELL + BAD))
    def enter(self, host: str) -> None:
        self.made += 1
        head = DueHead(f"r{self.made}", host)
        offered = any(_wants(search.hosts, host) for search in self.lanes.searches())
        entered = self.lanes.enter(head)
        assert entered == offered
        if entered:
            self.running[head.request_id] = head

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.running:
            head = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
            good = head.host in WELL
            self.lanes.leave(head, good=good)
            (self.proven.add if good else self.proven.discard)(head.host)

    @invariant()
    def limits_hold(self) -> None:
        assert self.lanes.under_way == frozenset(self.running)
        by_host = Counter(head.host for head in self.running.values())
        assert len(self.running) <= RULES.proven + RULES.others
        assert all(count <= RULES.per_host for count in by_host.values())
        assert all(by_host[host] <= 1 for host in BAD)
        assert sum(by_host[host] for host in BAD) <= RULES.others

    @invariant()
    def whoever_answers_well_has_room(self) -> None:
        """A receiver that has proved itself is held up by its own tries and by its like, never by the others."""
        offered = [search.hosts for search in self.lanes.searches()]
        by_host = Counter(head.host for head in self.running.values())
        well_running = sum(by_host[host] for host in WELL)
        for host in self.proven:
            if by_host[host] < RULES.per_host and well_running < RULES.proven:
                assert any(_wants(hosts, host) for hosts in offered)


def _wants(hosts: Hosts, host: str) -> bool:
    return (hosts.among is None or host in hosts.among) and host not in hosts.without


class TestLanes(LanesMachine.TestCase):
    """Limits hold at every step, searches offer exactly what may enter, and the lanes stay apart."""
