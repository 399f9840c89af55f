"""The configuration: read once, frozen, every mistake named with its remedy."""

from controlplane.settings.loading import load
from controlplane.settings.manager_file import (
    ApiKey,
    ArtifactSettings,
    DeviceSettings,
    EngineSettings,
    LoggingSettings,
    LogSettings,
    MediaSettings,
    RetentionSettings,
    SchedulingSettings,
    Scope,
    ServerSettings,
    VllmSettings,
)
from controlplane.settings.models_file import EngineKind, ModelSettings
from controlplane.settings.settings import Settings

__all__ = [
    "ApiKey",
    "ArtifactSettings",
    "DeviceSettings",
    "EngineKind",
    "EngineSettings",
    "LogSettings",
    "LoggingSettings",
    "MediaSettings",
    "ModelSettings",
    "RetentionSettings",
    "SchedulingSettings",
    "Scope",
    "ServerSettings",
    "Settings",
    "VllmSettings",
    "load",
]
