"""From a row and its model's entry to an order that a runtime can carry out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from adapters.base import Launch, ModelLaunch, Target
from adapters.errors import LaunchError
from controlplane.core.model import Replica
from controlplane.loop.world import ModelEntry
from controlplane.ports import DeviceReading, ReplicaOrder


@dataclass(frozen=True, slots=True)
class LaunchBook:
    """`model_path` turns a configured path into what the engine gets; `options` are per engine kind."""

    model_path: Callable[[str], str]
    options: Mapping[str, Mapping[str, str | int | float | bool]]

    def order(self, replica: Replica, entry: ModelEntry, device: DeviceReading) -> ReplicaOrder:
        """Raises LaunchError when the model cannot run within its reservation."""
        launch = self._launch(replica, entry, device)
        return ReplicaOrder(replica.replica_id, replica.generation, entry.config_hash, launch)

    def _launch(self, replica: Replica, entry: ModelEntry, device: DeviceReading) -> Launch:
        settings = entry.settings
        model = ModelLaunch(
            model_id=settings.model_id,
            aliases=settings.aliases,
            types=tuple(kind.value for kind in settings.types),
            model_path=self._path(settings.model_path),
            budget_mib=replica.reserved_mib,
            max_concurrency=settings.max_concurrency,
            args=settings.args,
            env=settings.launch_env,
            options={**self.options.get(settings.engine.value, {}), **settings.options},
        )
        return entry.adapter.launch(model, Target(device.kind, device.index, device.total_mib))

    def _path(self, configured: str | None) -> str:
        if configured is None:
            return ""
        try:
            return self.model_path(configured)
        except FileNotFoundError as exc:
            raise LaunchError(str(exc)) from exc
