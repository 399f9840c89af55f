"""SIGKILL at random moments: what was acknowledged is there, and nothing is half there."""

import random
import signal
import subprocess
import sys
from pathlib import Path

from store_rows import ManualClock

from controlplane.store.database import Place
from controlplane.store.store import Store

LIVES, LIVES_ON_A_SERVER = 8, 4
CHILD = Path(__file__).with_name("store_writer_child.py")


def _kill_after(place: Place, acknowledgements: int) -> dict[str, int]:
    """Run a writer, kill it after so many lines, and return the last generation that each task was told of."""
    child = subprocess.Popen([sys.executable, str(CHILD), str(place)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(acknowledgements)]
    child.send_signal(signal.SIGKILL)
    lines += child.stdout.readlines()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    acknowledged: dict[str, int] = {}
    for line in lines:
        if line.endswith(b"\n"):
            name, generation = line.split()
            acknowledged[name.decode()] = int(generation)
    return acknowledged


async def test_no_acknowledged_commit_is_lost(place: Place, clock: ManualClock) -> None:
    """Several lives, each killed mid-write: rows, reservations and events agree and are never behind."""
    chance, lives = random.Random(2), LIVES if isinstance(place, Path) else LIVES_ON_A_SERVER
    acknowledged: dict[str, int] = {}
    for life in range(lives):
        acknowledged |= _kill_after(place, chance.randint(1, 400))
        store = await Store.open(place, holder=f"inspector {life}", clock=clock, wait_seconds=60)
        rows = {row.replica_id: row for row in await store.replicas()}
        told = {event.subject: event.detail["generation"] for event in await store.events(limit=10**6)}
        await store.close()
        for name, generation in acknowledged.items():
            left, right = rows[f"{name}-left"], rows[f"{name}-right"]
            assert left.generation >= generation
            assert (left.generation, left.reserved_mib) == (right.generation, right.reserved_mib)
            assert told[left.replica_id] == told[right.replica_id] == left.generation == left.reserved_mib
    assert sum(acknowledged.values()) > lives
