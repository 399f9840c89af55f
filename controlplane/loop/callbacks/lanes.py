"""Decides which receivers may be tried now, so that those who hang or fail never stand in the way of the rest. Pure.

Receivers that answered well last have a lane of their own. All others share a second one, one try at a time
each, until they have proved themselves: however many of them there are, they wait for each other only.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from controlplane.store.deliveries import DueHead, Hosts

# Every search names them all; receivers beyond prove themselves again when their next turn comes.
_MOST_PROVEN = 256


@dataclass(frozen=True, slots=True)
class LaneRules:
    """Tries at the same time: to one proven receiver, to all of those, to all others."""

    per_host: int
    proven: int = 64
    others: int = 32


@dataclass(frozen=True, slots=True)
class Search:
    """Look for at most `limit` deliveries to these hosts."""

    hosts: Hosts
    limit: int


class Lanes:
    """Keeps what is under way and who has proved itself; changed only by `enter` and `leave`."""

    def __init__(self, rules: LaneRules) -> None:
        self._rules = rules
        # Least lately proven first.
        self._proven: dict[str, None] = {}
        self._fast: dict[str, str] = {}
        self._slow: dict[str, str] = {}

    @property
    def under_way(self) -> frozenset[str]:
        """The ids of what is being delivered."""
        return frozenset(self._fast) | frozenset(self._slow)

    def searches(self) -> Iterator[Search]:
        """What to look for, lane by lane; nothing for a lane that is full."""
        running = Counter([*self._fast.values(), *self._slow.values()])
        room = self._rules.proven - len(self._fast)
        among = frozenset(host for host in self._proven if running[host] < self._rules.per_host)
        if room > 0 and among:
            yield Search(Hosts(among=among), room)
        room = self._rules.others - len(self._slow)
        if room > 0:
            yield Search(Hosts(without=frozenset(self._proven) | frozenset(running)), room)

    def enter(self, head: DueHead) -> bool:
        """Begin this delivery; False when its receiver or its lane is at its limit."""
        proven = head.host in self._proven
        lane, room = (self._fast, self._rules.proven) if proven else (self._slow, self._rules.others)
        running = Counter([*self._fast.values(), *self._slow.values()])[head.host]
        if len(lane) >= room or running >= (self._rules.per_host if proven else 1):
            return False
        lane[head.request_id] = head.host
        return True

    def leave(self, head: DueHead, *, good: bool) -> None:
        """It ended; how decides which lane its receiver takes from now on."""
        self._fast.pop(head.request_id, None)
        self._slow.pop(head.request_id, None)
        self._proven.pop(head.host, None)
        if good:
            self._proven[head.host] = None
            if len(self._proven) > _MOST_PROVEN:
                del self._proven[next(iter(self._proven))]
