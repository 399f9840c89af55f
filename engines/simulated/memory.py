"""Memory that is really allocated: the kernel fills in every page at once, so that it shows as resident."""

from __future__ import annotations

import mmap

MIB = 1024 * 1024
_RESIDENT = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE


class Memory:
    """Named blocks of resident memory."""

    def __init__(self) -> None:
        self._blocks: dict[str, list[mmap.mmap]] = {}

    def grow(self, name: str, size_mib: int) -> None:
        """Add `size_mib` to a block. Takes about a millisecond for each MiB."""
        if size_mib > 0:
            self._blocks.setdefault(name, []).append(mmap.mmap(-1, size_mib * MIB, flags=_RESIDENT))

    def release(self, *names: str) -> None:
        """Give blocks back to the system; without a name all of them."""
        for name in names or tuple(self._blocks):
            for block in self._blocks.pop(name, []):
                block.close()

    def size_mib(self, *names: str) -> int:
        """What the named blocks hold; without a name all of them."""
        return sum(len(block) // MIB for name in names or tuple(self._blocks) for block in self._blocks.get(name, []))
