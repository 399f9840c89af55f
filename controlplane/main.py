"""Runs the service: open the store, recover, listen, loop, and stop in order.

A first signal refuses new calls, lets the accepted finish and stops the
engines; a second one ends at once and leaves them to the next life.
"""

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
import uvloop

from controlplane import logs
from controlplane.assembly import Service, assemble, steady_clock
from controlplane.loop import rejections
from controlplane.loop.jobs.recovery import Backlog
from controlplane.loop.retention import Retention
from controlplane.loop.shutdown import stop_replicas
from controlplane.ports import Clock
from controlplane.server import Server, listen, stop_signals
from controlplane.settings import Settings
from controlplane.store.store import Store

log = structlog.get_logger(__name__)

DRAIN = timedelta(seconds=30)
_SAME_WISH_SECONDS = 1.0
_COLLECT_EVERY = 50_000
_SERVER_NOTICES_SECONDS = 5.0


def serve(settings: Settings, *, keep_engines: bool = False) -> None:
    """Run until told to stop. Raises ConfigError, StoreFailure or RuntimeFailure when it cannot begin."""
    logs.configure(settings.logging.level, settings.logging.format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, keep_engines))


async def _serve(settings: Settings, keep_engines: bool) -> None:
    clock = steady_clock()
    bound = listen(settings.server.host, settings.server.port)
    with contextlib.closing(bound):
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = await _opened_store(settings, clock)
        try:
            service = await assemble(settings, store, clock)
            await service.observer.measure()
            await service.recovery.run()
            await service.model_files.recover()
            backlog = await service.jobs.recovery.run()
            await service.batches.tidy()
            server = Server(service.app, bound)
            _calm_collector()
            host, port = bound.getsockname()[:2]
            log.info("listening", url=f"http://{host}:{port}", models=len(settings.models), pid=os.getpid())
            retention = Retention(store, service.media.artifacts, settings.retention, clock)
            await _until_stopped(service, server, (retention, backlog), keep_engines)
        finally:
            await store.close()
    log.info("stopped")


async def _opened_store(settings: Settings, clock: Clock) -> Store:
    place = settings.store_place
    # The host's name: the file lock tells it by itself, a server knows only where a connection comes from.
    holder = f"inferctl serve, pid {os.getpid()}" + ("" if isinstance(place, Path) else f" on {socket.gethostname()}")
    # A server sees a moment later than a kernel that the last holder has ended.
    wait_seconds = 0.0 if isinstance(place, Path) else _SERVER_NOTICES_SECONDS
    return await Store.open(place, holder=holder, clock=clock, wait_seconds=wait_seconds)


def _calm_collector() -> None:
    """What stands now stays, so the garbage collector need not walk it; and a call leaves it little to find."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY, 20, 20)


async def _until_stopped(
    service: Service, server: Server, upkeep: tuple[Retention, Backlog], keep_engines: bool
) -> None:
    retention, backlog = upkeep
    signals = _Signals()
    with stop_signals(signals.count):
        background = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("loop", service.loop.run()),
                ("observer", service.observer.run()),
                ("retention", retention.run()),
                ("backlog", backlog.run()),
                ("callbacks", service.callbacks.run()),
                ("batches", service.batches.run()),
            )
        ]
        for task in background:
            task.add_done_callback(signals.on_background_end)
        serving = asyncio.create_task(server.run())
        await asyncio.wait((serving, signals.first), return_when=asyncio.FIRST_COMPLETED)
        await _finish_calls(service, signals)
        for task in background:
            await _cancelled(task)
        if not keep_engines and not signals.second.done():
            await _unless_insisted(_stop_engines(service), signals)
        server.close(at_once=signals.second.done())
        await serving
    await _let_go(service)


class _Signals:
    """The first signal asks, the second insists."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last_at = -_SAME_WISH_SECONDS
        self.first: asyncio.Future[None] = self._loop.create_future()
        self.second: asyncio.Future[None] = self._loop.create_future()

    def on_background_end(self, task: asyncio.Task[None]) -> None:
        """A part that must run for ever has failed: stop in order rather than serve half."""
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.critical("part.failed", part=task.get_name(), exc_info=failure)
            self.count()

    def count(self) -> None:
        # A terminal and a supervisor often pass on the same wish, one right after the other.
        now = self._loop.time()
        again, self._last_at = now - self._last_at >= _SAME_WISH_SECONDS, now
        if not again:
            return
        waiting = next((future for future in (self.first, self.second) if not future.done()), None)
        if waiting is not None:
            log.info("stopping", at_once=waiting is self.second)
            waiting.set_result(None)


async def _finish_calls(service: Service, signals: _Signals) -> None:
    """What has a slot may finish; who still waits is told to come back."""
    service.admission.close()
    service.dispatcher.close(rejections.closing())
    await _unless_insisted(service.admission.drained(DRAIN.total_seconds()), signals)
    await service.jobs.runner.close()


async def _stop_engines(service: Service) -> None:
    await stop_replicas(service.world, service.inbox, service.rows, service.actuator, service.backoff)


async def _let_go(service: Service) -> None:
    """Replicas that still run are left alone; our connections to them are not."""
    await service.actuator.close()
    for replica_id in list(service.world.slots):
        service.world.disconnect(replica_id)
    await service.runtime.close()
    await service.model_files.close()


async def _unless_insisted(work: Coroutine[None, None, object], signals: _Signals) -> None:
    task = asyncio.create_task(work)
    await asyncio.wait((task, signals.second), return_when=asyncio.FIRST_COMPLETED)
    await _cancelled(task)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait((task,))
