"""A full disk refuses new work, loses nothing that was promised, and heals by itself."""

import re
import subprocess
import sys
from pathlib import Path

from store_rows import ManualClock

from controlplane.store.store import Store


async def test_full_disk_is_survived(path: Path, clock: ManualClock) -> None:
    """Durable calls fail with StoreFailure, the journal waits within its limit, and both recover."""
    child = Path(__file__).with_name("store_full_disk_child.py")
    command = [sys.executable, "-W", "error", str(child), str(path)]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    refused, unflushed = run.stdout.splitlines()
    assert re.fullmatch("cannot commit to the store: .*(I/O error|is full)", refused)
    assert re.fullmatch("cannot write [0-9]+ rows of the journal: cannot commit to the store: .*", unflushed)
    store = await Store.open(path, holder="the inspector", clock=clock)
    assert (await store.replicas())[0].generation > 1
    await store.close()
