"""Learns how many rows of one key fit into memory together: halved when they did not, one more after a while. Pure."""

from collections import OrderedDict
from collections.abc import Hashable

_KEYS_REMEMBERED = 256
_FITTED_BEFORE_ONE_MORE = 64


class RowLimits:
    """`most_rows` is where every key begins, and never exceeded."""

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._limits: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()

    def of(self, key: Hashable) -> int:
        return self._limits.get(key, (self._most_rows, 0))[0]

    def did_not_fit(self, key: Hashable, rows: int) -> None:
        self._limits[key] = (max(1, min(rows // 2, self.of(key))), 0)
        self._limits.move_to_end(key)
        if len(self._limits) > _KEYS_REMEMBERED:
            self._limits.popitem(last=False)

    def fitted(self, key: Hashable, rows: int) -> None:
        """Memory may be there again; only a full call says anything about it."""
        if key not in self._limits or rows < self.of(key):
            return
        limit, times = self._limits[key]
        if times + 1 < _FITTED_BEFORE_ONE_MORE:
            self._limits[key] = (limit, times + 1)
        elif limit + 1 < self._most_rows:
            self._limits[key] = (limit + 1, 0)
        else:
            del self._limits[key]
