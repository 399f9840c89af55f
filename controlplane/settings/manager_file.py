"""config/inference_manager.json: how the service itself runs.

One class per section of the file. Rules that join sections (a public address
needs keys) are checked where the whole is known, in `loading`.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from controlplane.core.model import Rules
from controlplane.settings.callbacks_section import CallbackSettings
from controlplane.settings.runtime_section import RuntimeSection
from controlplane.settings.section import FilePath, Flag, KeyHash, Mebibytes, Seconds, Section, Whole
from controlplane.settings.store_section import StoreSettings

DEFAULT_STATE_DIR = Path("~/.local/share/inference-manager")
DEFAULT_CACHE_DIR = Path("~/.cache/inference-manager")


def _device_id(text: str) -> str:
    if text != "host" and not re.fullmatch(r"gpu(0|[1-9][0-9]*)", text):
        raise ValueError(f'"{text}" is no device; write "gpu0" for the first GPU and so on, or "host" for main memory')
    return text


DeviceId = Annotated[str, AfterValidator(_device_id)]


class Scope(StrEnum):
    """What a key may do: `user` calls models, `admin` also changes the service."""

    USER = "user"
    ADMIN = "admin"


class ServerSettings(Section):
    """Where the service listens and what it takes in."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on. Any address beyond loopback needs at least one key in `api_keys`."""
    port: Annotated[Whole, Field(ge=0, le=65535)] = 8000
    """Port to listen on. 0: a free one, which the log names."""
    max_body_mib: Annotated[Whole, Field(ge=1, le=4096)] = 32
    """Largest request body under `/v1`, in MiB; longer ones are refused with 413."""
    cors_origins: tuple[str, ...] = ()
    """Web origins whose pages may call the service, such as `https://app.example`. None by default."""

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and (not origin.startswith(("http://", "https://")) or origin.count("/") != 2):
                raise ValueError(
                    f'"{origin}" is not an origin; write scheme and host only, as in "https://app.example"'
                )
        return origins


class ApiKey(Section):
    """One key of the service. Only its hash is kept; neither key nor hash shows in a repr."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    """Who uses it, for logs and usage."""
    sha256: KeyHash = Field(alias="key", repr=False)
    """Where the key is: `{"env": "NAME"}`, `{"file": "path"}`, or `{"sha256": "…"}` for its hash."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)] = (Scope.USER,)
    """What it may do: `user` calls models, `admin` also changes the service."""


class DeviceSettings(Section):
    """Which memory may be handed out."""

    source: Literal["auto", "host", "cuda"] = "auto"
    """`cuda`: NVIDIA GPUs. `host`: main memory. `auto`: GPUs where there are any, else main memory."""
    budgets_mib: dict[DeviceId, Mebibytes] = Field(default_factory=dict)
    """MiB that may be used per device id, as `inferctl devices` names it (`host`, `gpu0`)."""
    margin_mib: Mebibytes = 512
    """MiB left free on a device that `budgets_mib` does not name: its budget is its whole memory less this."""

    def budget_mib(self, device_id: str, total_mib: int) -> int:
        """What may be handed out on a device; never more than it has."""
        return min(self.budgets_mib.get(device_id, max(0, total_mib - self.margin_mib)), total_mib)


class SchedulingSettings(Section):
    """Order, patience and retries."""

    ageing_seconds_per_point: Annotated[Seconds, Field(gt=0)] = 6.0
    """Seconds of waiting that weigh as much as one point of priority, so that nothing waits for ever."""
    min_residency_seconds: Seconds = 20.0
    """A model stays at least this long after its start before another may take its room."""
    queue_limit: Annotated[Whole, Field(ge=1)] = 1000
    """Most requests waiting at once; further ones get 429 with Retry-After."""
    queue_limit_per_model: Annotated[Whole, Field(ge=1)] | None = None
    """Most requests waiting for one model. null: only `queue_limit` counts."""
    default_deadline_seconds: Annotated[Seconds, Field(gt=0)] = 600.0
    """A request that waited this long for a slot expires, unless it names its own deadline."""
    resync_seconds: Annotated[Seconds, Field(gt=0)] = 5.0
    """The loop looks at the world at least this often, poked or not."""
    stall_seconds: Annotated[Seconds, Field(gt=0)] = 120.0
    """A replica with work that shows no progress for this long is restarted."""
    backoff_initial_seconds: Annotated[Seconds, Field(gt=0)] = 2.0
    """Pause before the first retry of a failed start; doubles with every failure."""
    backoff_max_seconds: Annotated[Seconds, Field(gt=0)] = 300.0
    """Longest pause between retries."""
    idle_timeout_seconds: Seconds | None = None
    """For models that do not name theirs: unload after this many seconds without a request. null: never."""

    @field_validator("backoff_max_seconds")
    @classmethod
    def _longest_last(cls, longest: float, info: ValidationInfo) -> float:
        initial = info.data.get("backoff_initial_seconds", 0.0)
        if longest < initial:
            raise ValueError(f"is less than backoff_initial_seconds ({initial:g}); write at least that")
        return longest


class RetentionSettings(Section):
    """How long history is kept."""

    requests_days: Annotated[Whole, Field(ge=1)] = 30
    """Days a finished request stays in the journal."""
    requests_max: Annotated[Whole, Field(ge=1)] = 1_000_000
    """Most finished requests in the journal; the oldest go first."""
    events_days: Annotated[Whole, Field(ge=1)] = 30
    """Days an event stays."""


class ArtifactSettings(Section):
    """Where the pictures of results are kept, and for how long."""

    dir: FilePath | None = None
    """Folder for them. null: `artifacts` in `state_dir`."""
    max_gib: Annotated[float, Field(gt=0, le=1_048_576)] = 10.0
    """GiB they may take; the least recently used go first."""
    max_age_days: Annotated[Whole, Field(ge=1, le=36_500)] = 30
    """Days after which one that was neither made again nor read is removed."""

    @property
    def max_mib(self) -> int:
        return max(1, int(self.max_gib * 1024))


class MediaSettings(Section):
    """Which pictures callers may send or name."""

    folder: FilePath | None = None
    """Folder in which `image_path` is looked up, and nowhere else; links are not followed. null: no paths are read."""
    max_image_mib: Annotated[Whole, Field(ge=1, le=1024)] = 20
    """Largest file of one picture, in MiB."""
    max_image_megapixels: Annotated[Whole, Field(ge=1, le=178)] = 64
    """Largest picture, in millions of pixels: width times height."""
    fetch_urls: Flag = True
    """Whether the service fetches pictures that callers name by `http://` or `https://` address."""
    fetch_timeout_seconds: Annotated[Seconds, Field(gt=0, le=600)] = 20.0
    """Longest time one such fetch may take in all."""
    allow_private_addresses: Flag = False
    """true: such an address may also lie on this machine or in local networks (never link-local)."""


class VllmSettings(Section):
    """How vLLM is run."""

    environment: Literal["auto", "vllm-cpu", "vllm-cuda"] = "auto"
    """The pinned environment to use. `auto`: the one that fits the devices."""
    python: FilePath | None = None
    """Interpreter of an environment of your own that has vLLM. null: the pinned one, installed on first use."""
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    """CPU threads per replica on a host without a GPU. null: chosen for the host."""


class DiffusersSettings(Section):
    """How the diffusers engine is run."""

    environment: Literal["auto", "diffusers-cpu", "diffusers-cuda"] = "auto"
    """The pinned environment to use. `auto`: the one that fits the devices."""
    python: FilePath | None = None
    """Interpreter of an environment of your own that has the engine's libraries. null: the pinned one, installed on \
first use."""
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    """CPU threads per replica on a host without a GPU. null: chosen for the host."""


class EngineSettings(Section):
    """Per engine kind."""

    vllm: VllmSettings = Field(default_factory=VllmSettings)
    """How vLLM is run."""
    diffusers: DiffusersSettings = Field(default_factory=DiffusersSettings)
    """How the diffusers engine is run."""


class LoggingSettings(Section):
    """The service's own log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level written."""
    format: Literal["auto", "json", "pretty"] = "auto"
    """`json`: one object a line. `pretty`: for people. `auto`: pretty on a terminal, else json."""


class LogSettings(Section):
    """Log files of replicas."""

    max_mib: Annotated[Whole, Field(ge=1)] = 20
    """Size at which a replica's log file is rotated, in MiB."""
    keep: Annotated[Whole, Field(ge=0, le=100)] = 3
    """Rotated files kept per replica."""


class ManagerFile(Section):
    """How the service itself runs. Every key has a default, so `{}` is a whole file."""

    schema_address: str | None = Field(default=None, alias="$schema")
    """Where the JSON Schema lies, for editors."""
    server: ServerSettings = Field(default_factory=ServerSettings)
    """Where the service listens and what it takes in."""
    models_file: FilePath = Path("models.json")
    """The file with the models, relative to this file."""
    state_dir: FilePath = DEFAULT_STATE_DIR
    """Folder for the database, sockets, replicas' logs and results' pictures."""
    store: StoreSettings = Field(default_factory=StoreSettings)
    """Where requests, jobs, replicas and events are kept."""
    cache_dir: FilePath = DEFAULT_CACHE_DIR
    """Folder for what can be fetched again: engine environments (`engines/`) and models (`models/`)."""
    api_keys: tuple[ApiKey, ...] = ()
    """Keys that callers present. Without any, the service answers on loopback only, and to everybody there."""
    devices: DeviceSettings = Field(default_factory=DeviceSettings)
    """Which memory may be handed out."""
    scheduling: SchedulingSettings = Field(default_factory=SchedulingSettings)
    """Order, patience and retries."""
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    """How long history is kept."""
    artifacts: ArtifactSettings = Field(default_factory=ArtifactSettings)
    """Where the pictures of results are kept, and for how long."""
    media: MediaSettings = Field(default_factory=MediaSettings)
    """Which pictures callers may send or name."""
    callbacks: CallbackSettings = Field(default_factory=CallbackSettings)
    """Callbacks: what jobs report to the addresses that their callers named."""
    engines: EngineSettings = Field(default_factory=EngineSettings)
    """Per engine kind."""
    runtime: RuntimeSection = Field(default_factory=RuntimeSection)
    """How replicas are run."""
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    """The service's own log."""
    logs: LogSettings = Field(default_factory=LogSettings)
    """Log files of replicas."""

    @property
    def store_place(self) -> Path | str:
        """The SQLite file of the store, or the address of its database."""
        return self.state_dir / "store.sqlite" if self.store.url is None else self.store.url.get_secret_value()

    @property
    def engines_dir(self) -> Path:
        """Where engine environments lie."""
        return self.cache_dir / "engines"

    @property
    def models_dir(self) -> Path:
        """Where fetched models lie."""
        return self.cache_dir / "models"

    @property
    def artifacts_dir(self) -> Path:
        """Where the pictures of results lie."""
        return self.artifacts.dir or self.state_dir / "artifacts"

    def rules(self) -> Rules:
        """The scheduling parameters that decisions depend on."""
        return Rules(
            ageing_seconds_per_point=self.scheduling.ageing_seconds_per_point,
            min_residency_seconds=self.scheduling.min_residency_seconds,
        )
