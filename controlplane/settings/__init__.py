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
from controlplane.settings.runtime_section import DockerSection, RuntimeSection, ShareSettings
from controlplane.settings.settings import Settings

__all__ = [
    "ApiKey",
    "ArtifactSettings",
    "DeviceSettings",
    "DockerSection",
    "EngineKind",
    "EngineSettings",
    "LogSettings",
    "LoggingSettings",
    "MediaSettings",
    "ModelSettings",
    "RetentionSettings",
    "RuntimeSection",
    "SchedulingSettings",
    "Scope",
    "ServerSettings",
    "Settings",
    "ShareSettings",
    "VllmSettings",
    "load",
]
