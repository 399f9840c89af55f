"""The whole configuration, resolved: what `main` parses once and passes on."""

import hashlib
import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from controlplane.errors import ConfigError
from controlplane.settings.document import Document
from controlplane.settings.manager_file import ApiKey, LoggingSettings, ManagerFile, ServerSettings
from controlplane.settings.models_file import ModelSettings
from controlplane.settings.problems import config_error, problems_of

_COMMAND_LINE = Path("command line")
_SHAPING = {
    "model_id",
    "aliases",
    "model_type",
    "engine",
    "model_path",
    "vram_required_mb",
    "max_batch_size",
    "max_concurrency",
    "args",
    "parameters",
}


class Settings(ManagerFile):
    """inference_manager.json with its models; paths are absolute, secrets resolved, keys hashed."""

    models: tuple[ModelSettings, ...]
    """The entries of the models file."""
    config_path: Path
    """The file all this was read from."""

    def model(self, model_id: str) -> ModelSettings:
        """The model of that id. Raises KeyError."""
        return {model.model_id: model for model in self.models}[model_id]

    def config_hash(self, model: ModelSettings) -> str:
        """A stable hash of everything that shapes the model's launch; a replica with another one is outdated."""
        engine = getattr(self.engines, model.engine.value, None)
        shaping: Mapping[str, object] = {
            "model": model.model_dump(mode="json", include=_SHAPING),
            "env": model.launch_env,
            "engine": engine.model_dump(mode="json") if engine else None,
        }
        return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()

    def with_overrides(
        self, *, host: str | None = None, port: int | None = None, log_level: str | None = None
    ) -> "Settings":
        """The same with what the command line said. Raises ConfigError for values that do not fit."""
        server = self.server.model_dump() | _given({"host": host, "port": port})
        logging = self.logging.model_dump() | _given({"level": log_level})
        try:
            update = {
                "server": ServerSettings.model_validate(server),
                "logging": LoggingSettings.model_validate(logging),
            }
        except ValidationError as exc:
            raise config_error(problems_of(exc, _COMMAND_LINE, Document({}), ServerSettings)) from exc
        changed = self.model_copy(update=update)
        if problem := exposed(changed.server, changed.api_keys):
            raise ConfigError(problem)
        return changed


def exposed(server: ServerSettings, api_keys: tuple[ApiKey, ...]) -> str | None:
    """What is wrong with listening there with these keys; None when nothing is."""
    if api_keys or _loopback(server.host):
        return None
    return (
        f'"{server.host}" can be reached from other machines, but there is no key; use "127.0.0.1", or add to api_keys '
        '{"name": "me", "key": {"env": "INFERENCE_MANAGER_KEY"}, "scopes": ["user", "admin"]}'
    )


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _given(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
