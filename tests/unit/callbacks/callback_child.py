"""A control plane's life as far as callbacks go: commits outcomes with their callbacks and delivers, until killed.

Usage: callback_child.py STORE PORT LIFE. Prints each id once its commit returned.
"""

import asyncio
import itertools
import os
import random
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from controlplane.core.webhook import Patience
from controlplane.loop.callbacks.lanes import LaneRules, Lanes
from controlplane.loop.callbacks.post import Poster, PostRules
from controlplane.loop.callbacks.secrets import Secrets
from controlplane.loop.callbacks.sender import CallbackSender, SenderRules
from controlplane.loop.telemetry import Telemetry
from controlplane.store import outbox
from controlplane.store.store import Store


async def _loopback(host: str, port: int) -> Sequence[str]:
    return ("127.0.0.1",)


async def main() -> None:
    path, port, life = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    store = await Store.open(path, holder="the child", clock=time.time)
    sender = CallbackSender(
        store.outbox,
        Poster(PostRules(allow_private=True, timeout_seconds=60.0), Secrets({}, bytes(24)), _loopback),
        Lanes(LaneRules(per_host=8)),
        SenderRules(Patience(1.0, 1.0, 100), random.random, time.time),
        Telemetry(),
    )
    running = asyncio.create_task(sender.run())
    for n in itertools.count():
        name = f"{life}-{n:05}"
        row = {"request_id": name, "url": f"http://here.test:{port}/hook", "body": f"outcome of {name}".encode()}
        await store._writer.commit(partial(outbox.write, **row, at=time.time()))
        os.write(1, f"{name}\n".encode())
        sender.poke()
    await running


asyncio.run(main())
