"""SIGKILL at any moment: every callback whose outcome was committed arrives, under one id, with one body."""

import random
import subprocess
import sys
from pathlib import Path

from callback_desk import Desk

from controlplane.store.deliveries import DeliveryState
from controlplane.store.store import Store
from tests.fakes.callback_receiver import HANG, OK

CHILD = Path(__file__).with_name("callback_child.py")
LIVES = 5


def _started(path: Path, port: int, life: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(CHILD), str(path), str(port), f"life{life}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def _killed(child: "subprocess.Popen[bytes]") -> set[str]:
    """SIGKILL; the ids whose commits were acknowledged."""
    child.kill()
    assert child.stdout is not None
    lines = child.stdout.readlines()
    child.stdout.close()
    child.wait()
    return {line.decode().strip() for line in lines if line.endswith(b"\n")}


async def test_no_committed_callback_is_lost(desk: Desk, tmp_path: Path) -> None:
    """Five lives, each killed after so many arrivals; the last one delivers what is left."""
    path = tmp_path / "crashes.db"
    chance, acknowledged = random.Random(6), set[str]()
    for life in range(LIVES):
        child = _started(path, desk.here.port, life)
        try:
            await desk.here.until(len(desk.here.came) + chance.randint(1, 40))
        finally:
            acknowledged |= _killed(child)
    last = Desk(await Store.open(path, holder="the last life", clock=desk.clock), desk.clock, desk.here)
    desk.clock.now = 4e9
    async with last.sending():
        while (await last.store.outbox.page(DeliveryState.PENDING, limit=1)).deliveries:
            pass
    await last.store.close()
    bodies: dict[str, set[bytes]] = {}
    for came in desk.here.came:
        bodies.setdefault(came.id, set()).add(came.body)
    assert acknowledged <= bodies.keys()
    assert all(each == {f"outcome of {name}".encode()} for name, each in bodies.items())


async def test_a_kill_between_delivery_and_record_delivers_again(desk: Desk, tmp_path: Path) -> None:
    """The receiver has the callback, the store does not know it: it comes once more, under the same id."""
    path = tmp_path / "crashes.db"
    desk.here.answers["/hook"] = [HANG, OK]
    child = _started(path, desk.here.port, 0)
    try:
        (first,) = await desk.here.until(1)
    finally:
        _killed(child)
    last = Desk(await Store.open(path, holder="the next life", clock=desk.clock), desk.clock, desk.here)
    desk.clock.now = 4e9
    async with last.sending():
        await last.row(first.id, DeliveryState.DELIVERED, 1)
    await last.store.close()
    assert [came.body for came in desk.here.came if came.id == first.id] == [first.body] * 2
