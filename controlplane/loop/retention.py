"""Keeps the journal and the artifacts within their limits: a little is removed every hour."""

import asyncio

import structlog

from controlplane.errors import StoreFailure
from controlplane.media.artifacts import Artifacts
from controlplane.ports import Clock
from controlplane.settings import RetentionSettings
from controlplane.store.store import Store

log = structlog.get_logger(__name__)

_EVERY_SECONDS = 3600.0
_DAY_SECONDS = 86400.0


class Retention:
    """One task; nothing waits for it."""

    def __init__(self, store: Store, artifacts: Artifacts, settings: RetentionSettings, clock: Clock) -> None:
        self._store = store
        self._artifacts = artifacts
        self._settings = settings
        self._clock = clock

    async def run(self) -> None:
        while True:
            await self._prune_journal()
            await self._prune_artifacts()
            await asyncio.sleep(_EVERY_SECONDS)

    async def _prune_journal(self) -> None:
        try:
            before = self._clock() - self._settings.requests_days * _DAY_SECONDS
            removed = await self._store.prune(before, self._settings.requests_max)
            if removed:
                log.info("journal.pruned", removed=removed)
        except StoreFailure as exc:
            log.warning("journal.prune_failed", reason=str(exc))

    async def _prune_artifacts(self) -> None:
        try:
            removed = await self._artifacts.prune(self._clock())
            if removed:
                log.info("artifacts.pruned", removed=removed)
        except StoreFailure as exc:
            log.warning("artifacts.prune_failed", reason=str(exc))
