"""The waiting requests, ordered: a projection of what was accepted, every operation O(log n).

Ageing needs no re-sorting: a point of priority is worth a fixed number of
seconds, so the order of two requests never changes while both wait. The rank
is a request's virtual arrival, `enqueued_at - priority * seconds_per_point`, and a day later at priority 0.
"""

from collections.abc import Iterator
from typing import Final

from sortedcontainers import SortedKeyList

from controlplane.core.model import BACKGROUND_PRIORITY, Demand, RequestHead

BACKGROUND_SECONDS: Final = 86400.0
"""How much later than they did they count as arrived who have the lowest priority: people go first all day."""

_Key = tuple[float, int]


class WaitQueue:
    """One line per model and one shared rank. Not thread-safe; owned by the loop."""

    def __init__(self, seconds_per_point: float) -> None:
        self._seconds_per_point = seconds_per_point
        self._sequence = 0
        self._heads: dict[str, RequestHead] = {}
        self._keys: dict[str, _Key] = {}
        self._lines: dict[str, SortedKeyList[str, _Key]] = {}
        self._deadlines: SortedKeyList[str, _Key] = SortedKeyList(key=self._deadline_of)

    def __len__(self) -> int:
        return len(self._heads)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._heads

    def __iter__(self) -> Iterator[RequestHead]:
        return iter(self._heads.values())

    def rank(self, head: RequestHead) -> float:
        """Virtual arrival in seconds; lower goes first, across models."""
        if head.priority == BACKGROUND_PRIORITY:
            return head.enqueued_at + BACKGROUND_SECONDS
        return head.enqueued_at - head.priority * self._seconds_per_point

    def push(self, head: RequestHead) -> None:
        """Add it behind its equals. A request pushed again after a failed try keeps its old rank."""
        if head.request_id in self._heads:
            raise ValueError(f"request {head.request_id} is already waiting")
        self._sequence += 1
        self._heads[head.request_id] = head
        self._keys[head.request_id] = (self.rank(head), self._sequence)
        self._line(head.model_id).add(head.request_id)
        if head.deadline_at is not None:
            self._deadlines.add(head.request_id)

    def get(self, request_id: str) -> RequestHead | None:
        return self._heads.get(request_id)

    def pop(self, model_id: str) -> RequestHead | None:
        """Take the first in line of a model."""
        line = self._lines.get(model_id)
        return self.remove(line[0]) if line else None

    def front(self, model_id: str, count: int) -> list[RequestHead]:
        """The first of a model's line, at most `count`, in order; they stay in it."""
        line = self._lines.get(model_id)
        if not line:
            return []
        if count == 1:
            return [self._heads[line[0]]]
        return [self._heads[request_id] for request_id in line[:count]]

    def remove(self, request_id: str) -> RequestHead | None:
        """Take a request out wherever it stands; None when it is not waiting."""
        head = self._heads.get(request_id)
        if head is None:
            return None
        line = self._lines[head.model_id]
        line.remove(request_id)
        if not line:
            del self._lines[head.model_id]
        if head.deadline_at is not None:
            self._deadlines.remove(request_id)
        del self._heads[request_id], self._keys[request_id]
        return head

    def clear(self) -> None:
        """Nobody waits any more."""
        self._heads.clear()
        self._keys.clear()
        self._lines.clear()
        self._deadlines.clear()

    def waiting(self, model_id: str) -> int:
        line = self._lines.get(model_id)
        return len(line) if line else 0

    def position(self, request_id: str) -> int | None:
        """Place in its model's line, first is 1."""
        head = self._heads.get(request_id)
        if head is None:
            return None
        index: int = self._lines[head.model_id].index(request_id)
        return index + 1

    def demands(self) -> dict[str, Demand]:
        """Totals per waiting model; costs nothing per request."""
        return {model_id: self._demand(line) for model_id, line in self._lines.items()}

    def next_deadline(self) -> float | None:
        return self._heads[self._deadlines[0]].deadline_at if self._deadlines else None

    def expired(self, now: float) -> list[RequestHead]:
        """Remove and return every request whose deadline has come."""
        late: list[RequestHead] = []
        while self._deadlines and self._deadline_of(self._deadlines[0])[0] <= now:
            head = self.remove(self._deadlines[0])
            if head is not None:
                late.append(head)
        return late

    def _line(self, model_id: str) -> "SortedKeyList[str, _Key]":
        line = self._lines.get(model_id)
        if line is None:
            line = self._lines[model_id] = SortedKeyList(key=self._keys.__getitem__)
        return line

    def _deadline_of(self, request_id: str) -> _Key:
        """Unique, because many share a deadline and a list of equals is searched one by one."""
        deadline = self._heads[request_id].deadline_at
        return (float("inf") if deadline is None else deadline, self._keys[request_id][1])

    def _demand(self, line: "SortedKeyList[str, _Key]") -> Demand:
        head = self._heads[line[0]]
        return Demand(
            waiting=len(line),
            head_rank=self._keys[head.request_id][0],
            head_priority=head.priority,
            head_enqueued_at=head.enqueued_at,
        )
