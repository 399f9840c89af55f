"""A control plane's life in a process of its own: commits until killed, telling what was acknowledged.

Usage: store_writer_child.py STORE. Prints "NAME GENERATION" after each commit returned.
"""

import asyncio
import itertools
import os
import sys
import time
from dataclasses import replace

from store_rows import create, place_of, replica

from controlplane.store.records import EventDraft, ReplicaChange
from controlplane.store.store import Store

WRITERS = 8


async def _write(store: Store, name: str) -> None:
    """Keep two rows in step, each commit telling its generation in an event."""
    pair = (f"{name}-left", f"{name}-right")
    known = {row.replica_id: row.generation for row in await store.replicas()}
    first = known.get(pair[0], 0)
    if not first:
        await store.commit_replicas([create(replica(one, 1)) for one in pair])
        first = 1
    for generation in itertools.count(first):
        told = EventDraft("moved", {"generation": generation + 1})
        rows = [replace(replica(one), generation=generation + 1, reserved_mib=generation + 1) for one in pair]
        await store.commit_replicas([ReplicaChange(row, generation, told) for row in rows])
        os.write(1, f"{name} {generation + 1}\n".encode())


async def main() -> None:
    store = await Store.open(place_of(sys.argv[1]), holder="the child", clock=time.time, wait_seconds=60)
    await asyncio.gather(*(_write(store, f"writer{n}") for n in range(WRITERS)))


asyncio.run(main())
