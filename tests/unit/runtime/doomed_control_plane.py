"""A control plane to be killed: starts one replica, says so on standard output, and waits for its end."""

import asyncio
import os
import sys
from pathlib import Path

from adapters.base import Launch
from controlplane.ports import ReplicaOrder
from controlplane.runtime.process import ProcessRuntime, ProcessSettings
from tests.contract.runtime_worlds import TINY_ENGINE, Interpreters
from tests.fakes.devices import FakeDevices


async def main(state_dir: str, store_id: str, desk: str) -> None:
    settings = ProcessSettings(Path(state_dir), store_id, dict(os.environ))
    runtime = ProcessRuntime(settings, Interpreters(), FakeDevices.host(), lambda report: None)
    argv = ("{python}", str(TINY_ENGINE), desk, "engine")
    launch = Launch(None, argv, {}, "unix", ready_timeout_seconds=30, stop_grace_seconds=30)
    await runtime.start(ReplicaOrder("llm-0", 4, "hash-4", launch), lambda phase: None)
    print("started", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
