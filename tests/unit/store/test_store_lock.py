"""One control plane per store, whatever became of the last one."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from store_rows import ManualClock

from controlplane.errors import StoreHeld
from controlplane.store.database import Place
from controlplane.store.store import Store

_HOLD = """
import asyncio, pathlib, sys, time
from controlplane.store.store import Store
async def main():
    place = sys.argv[1]
    place = place if place.startswith("postgresql:") else pathlib.Path(place)
    await Store.open(place, holder="the first one", clock=time.time)
    print("held", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_second_opener_is_told_who_holds_it(store: Store, place: Place, clock: ManualClock) -> None:
    """The refusal names holder, machine and time, so that the operator knows what to stop."""
    words = rf"\(pid {os.getpid()} on .*, since 1970-" if isinstance(place, Path) else r"\(on this machine, since 20"
    with pytest.raises(StoreHeld, match=rf"cannot open the store .*: held by the test {words}"):
        await Store.open(place, holder="the second", clock=clock)


async def test_waiting_opener_gets_it_when_the_first_leaves(place: Place, clock: ManualClock) -> None:
    """With a time to wait, a restart overlaps with its predecessor without failing."""
    first = await Store.open(place, holder="the first", clock=clock)
    waiting = asyncio.ensure_future(Store.open(place, holder="the second", clock=clock, wait_seconds=30))
    await asyncio.sleep(0)
    assert not waiting.done()
    await first.close()
    second = await waiting
    with pytest.raises(StoreHeld, match="held by the second"):
        await Store.open(place, holder="the third", clock=clock)
    await second.close()


async def test_closing_lets_the_next_one_in(place: Place, clock: ManualClock) -> None:
    """A store can be opened, closed and opened again, any number of times."""
    for n in range(3):
        await (await Store.open(place, holder=f"life {n}", clock=clock)).close()


async def test_kill_releases_it(place: Place, clock: ManualClock) -> None:
    """A killed holder leaves its label in the file, and no lock."""
    child = subprocess.Popen([sys.executable, "-c", _HOLD, str(place)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert await asyncio.to_thread(child.stdout.readline) == b"held\n"
        words = rf"pid {child.pid} on " if isinstance(place, Path) else "on this machine, since"
        with pytest.raises(StoreHeld, match=rf"held by the first one \({words}"):
            await Store.open(place, holder="the second", clock=clock)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    # A server may need a moment to see that its client is gone.
    await (await Store.open(place, holder="the second", clock=clock, wait_seconds=60)).close()


async def test_engines_do_not_inherit_it(place: Place, clock: ManualClock) -> None:
    """A replica started by the control plane outlives it without keeping its successor out."""
    store = await Store.open(place, holder="the first", clock=clock)
    engine = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    try:
        await store.close()
        await (await Store.open(place, holder="the second", clock=clock)).close()
    finally:
        engine.communicate()
