"""From a row and its model's entry to an order that a runtime can carry out."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from adapters.base import Target
from adapters.errors import LaunchError
from controlplane.core.model import Replica
from controlplane.errors import ConfigError
from controlplane.loop.world import ModelEntry
from controlplane.ports import DeviceReading, ReplicaOrder

Say = Callable[[str], None]
Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class LaunchBook:
    """`fetch` gives the folder of a configured model path, fetching it on first use.

    `options` are per engine kind; a model's own go before them.
    """

    fetch: Callable[[str, Say], Awaitable[Path]]
    options: Mapping[str, Mapping[str, Scalar]]

    async def order(self, replica: Replica, entry: ModelEntry, device: DeviceReading, say: Say) -> ReplicaOrder:
        """Raises LaunchError when it can never run so, RuntimeFailure when another try may succeed."""
        settings = entry.settings
        folder = await self._folder(settings.model_path, say)
        model = settings.launch(folder, replica.reserved_mib, self.options.get(settings.engine.value, {}))
        launch = entry.adapter.launch(model, Target(device.kind, device.index, device.total_mib))
        gpus = (device.index,) if device.kind == "cuda" else ()
        return ReplicaOrder(replica.replica_id, replica.generation, entry.config_hash, launch, gpus)

    async def _folder(self, configured: str | None, say: Say) -> str:
        if configured is None:
            return ""
        try:
            return str(await self.fetch(configured, say))
        except ConfigError as exc:
            raise LaunchError(str(exc)) from exc
