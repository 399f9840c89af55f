"""config/models.json: the models that callers can name, one entry each.

The keys are the names the product was specified with. An entry is complete on
its own; rules between entries (names that clash) are in `names`.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from adapters.base import ModelLaunch
from controlplane.core.model import DEFAULT_PRIORITY, InferenceType, ModelSpec
from controlplane.settings.section import EnvironmentValue, Flag, Seconds, Section, Whole, surroundings
from engines.simulated.script import ScriptError, parse_script

MAX_NAME_LENGTH = 96
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$"
DEFAULT_CONCURRENCY = 8
SCRIPT = "script"


# A new engine kind is a line here, and one in each of the places below where it belongs.
class EngineKind(StrEnum):
    """The engine kinds."""

    VLLM = "vllm"
    DIFFUSERS = "diffusers"
    SIMULATED = "simulated"


# With the kinds of inference that it can do without one.
NEEDS_MODEL_PATH: Mapping[EngineKind, frozenset[InferenceType]] = {
    EngineKind.VLLM: frozenset(),
    EngineKind.DIFFUSERS: frozenset({InferenceType.IMAGE_PROCESSING}),
}
TAKES_SCRIPT = frozenset({EngineKind.SIMULATED})
# Options that are no plain value; of them and of the rest, those that name files.
STRUCTURES: Mapping[EngineKind, frozenset[str]] = {EngineKind.DIFFUSERS: frozenset({"loras", "quantization"})}
FILE_OPTIONS: Mapping[EngineKind, frozenset[str]] = {EngineKind.DIFFUSERS: frozenset({"upscaler"})}
LORAS = "loras"

Scalar = str | int | float | bool
Name = Annotated[str, Field(max_length=MAX_NAME_LENGTH, pattern=NAME_PATTERN)]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _located_model(value: object, info: ValidationInfo) -> object:
    """A path only when it is written as one; else the name of a model to fetch."""
    if isinstance(value, str) and value.startswith(("/", "~", "./", "../")):
        return str(surroundings(info).path(value).resolve())
    return value


_ONE_TYPE: dict[str, Any] = {"enum": [kind.value for kind in InferenceType]}
ModelTypes = Annotated[
    tuple[InferenceType, ...],
    BeforeValidator(_as_list),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [_ONE_TYPE, {"type": "array", "items": _ONE_TYPE, "minItems": 1, "uniqueItems": True}]}),
]
ModelPath = Annotated[str, BeforeValidator(_located_model), Field(min_length=1)]


def _concurrency(fields: dict[str, Any]) -> int:
    return fields.get("max_batch_size") or DEFAULT_CONCURRENCY


class ModelSettings(Section):
    """One model: what callers name, on which engine, with which memory and limits."""

    model_id: Name
    """The name callers use. Letters, digits and `. _ - /`, at most 96."""
    model_type: ModelTypes
    """What it does: one kind or a list of kinds. A request that names only a kind is served by the best such model."""
    engine: EngineKind
    """The engine that serves it."""
    aliases: tuple[Name, ...] = ()
    """More names for the same model."""
    model_path: ModelPath | None = None
    """A folder (`/…`, `~/…`, `./…` or `../…`, relative to this file), the name of a model that `inferctl models list` \
shows, or a Hugging Face id."""
    api_endpoint: str | None = None
    """Address of a remote server. For remote engines, which this version does not have."""
    vram_required_mb: Annotated[Whole, Field(gt=0)]
    """MiB of device memory one replica reserves: weights, cache and the engine's own needs together. On a host \
without a GPU it is main memory."""
    loading_time_sec: Annotated[Seconds, Field(gt=0)] = 60.0
    """Seconds a start takes, until measured ones are known. Used for estimates only."""
    priority: Annotated[Whole, Field(ge=0, le=100)] = DEFAULT_PRIORITY
    """Which model of a kind is preferred, and the default priority of its requests: 0 to 100, higher goes first."""
    max_batch_size: Annotated[Whole, Field(ge=1)] | None = None
    """Most rows the engine computes together: on diffusers, images in one batch. null: as many as `max_concurrency`. \
vLLM batches by itself, up to `max_concurrency`."""
    max_concurrency: Annotated[Whole, Field(ge=1, le=4096)] = Field(default_factory=_concurrency)
    """Slots: requests a replica is sent at the same time, each image counting as one. On diffusers more than \
`max_batch_size` keeps the next ones ready in the engine. Default: `max_batch_size` if given, else 8."""
    min_replicas: Annotated[Whole, Field(ge=0, le=1)] = 0
    """1: start it at once and again after a failure. 0: start it when a request comes."""
    pinned: Flag = False
    """true: once loaded, never evicted to make room."""
    idle_timeout_seconds: Seconds | None = None
    """Seconds without a request after which it is unloaded. null: never. Default: `scheduling.idle_timeout_seconds`."""
    env: dict[str, EnvironmentValue] = Field(default_factory=dict, repr=False)
    """Environment variables of the engine: text, `{"env": "NAME"}` or `{"file": "path"}`."""
    args: tuple[str, ...] = ()
    """Arguments appended to the engine's command line as they stand."""
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        json_schema_extra={
            "properties": {LORAS: {"type": "array", "items": {"type": "object"}}},
            "additionalProperties": {"type": ["string", "number", "boolean", "object"]},
        },
    )
    """Engine options by name, such as `max_model_len`, `dtype` or `quantization`; text, numbers and booleans. The \
simulated engine also takes `script`, an object; diffusers `loras`, a list of objects, and `quantization`, an object."""

    @field_validator("model_type")
    @classmethod
    def _types_once(cls, types: tuple[InferenceType, ...]) -> tuple[InferenceType, ...]:
        if len(set(types)) != len(types):
            raise ValueError("names a kind twice; name each kind once")
        return types

    @field_validator("model_path")
    @classmethod
    def _path_fits(cls, path: str | None, info: ValidationInfo) -> str | None:
        engine = info.data.get("engine")
        without = NEEDS_MODEL_PATH.get(engine) if engine else None
        if path is None and without is not None and not without.issuperset(info.data.get("model_type", ())):
            raise ValueError(
                f'engine {engine} needs it; add "model_path" with a folder, a Hugging Face id or a name '
                "that `inferctl models list` shows"
            )
        return path

    @field_validator("api_endpoint")
    @classmethod
    def _no_remote_yet(cls, endpoint: str | None, info: ValidationInfo) -> str | None:
        engine = info.data.get("engine")
        if endpoint is not None and engine is not None:
            raise ValueError(
                f"engine {engine} runs on this host and has no remote address; this version has no remote "
                'engine yet, so remove "api_endpoint"'
            )
        return endpoint

    @field_validator("env")
    @classmethod
    def _variable_names(cls, env: dict[str, Any]) -> dict[str, Any]:
        wrong = [name for name in env if not name or "=" in name or "\0" in name]
        if wrong:
            raise ValueError(f"{wrong[0]!r} cannot name an environment variable")
        return env

    @field_validator("parameters")
    @classmethod
    def _options(cls, parameters: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        engine = info.data.get("engine")
        if engine is None:
            return parameters
        for name, value in parameters.items():
            if name == SCRIPT:
                _check_script(value, engine)
            elif name in STRUCTURES.get(engine, ()):
                if not isinstance(value, dict | list):
                    raise ValueError(f'"{name}" must be a list or an object, in [ ] or {{ }}')
            elif not isinstance(value, Scalar):
                raise ValueError(f'"{name}" must be text, a number, true or false; leave it out for the default')
        return {name: _located(engine, name, value, info) for name, value in parameters.items()}

    @property
    def types(self) -> tuple[InferenceType, ...]:
        return self.model_type

    @property
    def options(self) -> dict[str, Scalar]:
        """`parameters` as scalars: a script becomes its JSON text."""
        return {name: _scalar(value) for name, value in self.parameters.items()}

    @property
    def launch_env(self) -> dict[str, str]:
        """The environment variables in the clear, for the launch only."""
        return {name: value.get_secret_value() for name, value in self.env.items()}

    def launch(self, folder: str, budget_mib: int, defaults: Mapping[str, Scalar]) -> ModelLaunch:
        """What its engine has to know of it; its own options go before the engine kind's `defaults`."""
        return ModelLaunch(
            model_id=self.model_id,
            aliases=self.aliases,
            types=tuple(kind.value for kind in self.types),
            model_path=folder,
            budget_mib=budget_mib,
            max_concurrency=self.max_concurrency,
            args=self.args,
            env=self.launch_env,
            options={**defaults, **self.options},
            max_batch_size=self.max_batch_size,
        )

    def spec(self) -> ModelSpec:
        """What decisions need to know of it."""
        return ModelSpec(
            model_id=self.model_id,
            types=self.types,
            vram_mib=self.vram_required_mb,
            max_concurrency=self.max_concurrency,
            priority=self.priority,
            pinned=self.pinned,
            min_replicas=self.min_replicas,
            idle_timeout_seconds=self.idle_timeout_seconds,
            loading_seconds=self.loading_time_sec,
        )


def _check_script(script: object, engine: EngineKind) -> None:
    if engine not in TAKES_SCRIPT:
        raise ValueError(f'"{SCRIPT}" is for the simulated engine; remove it or write "engine": "simulated"')
    if not isinstance(script, dict):
        raise ValueError(f'"{SCRIPT}" must be an object, in {{ }}')
    try:
        parse_script(json.dumps(script))
    except ScriptError as exc:
        raise ValueError(f'"{SCRIPT}"{str(exc).removeprefix("--script")}') from exc


def _located(engine: EngineKind, name: str, value: Any, info: ValidationInfo) -> Any:
    """Files that an option names are looked up from the file's own folder, as `model_path` is."""
    if name in FILE_OPTIONS.get(engine, ()):
        return _located_model(value, info)
    if name == LORAS and engine in STRUCTURES and isinstance(value, list):
        return [
            {**lora, "path": _located_model(lora["path"], info)} if isinstance(lora, dict) and "path" in lora else lora
            for lora in value
        ]
    return value


def _scalar(value: Any) -> Scalar:
    if isinstance(value, Scalar):
        return value
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


class ModelsFile(Section):
    """The models the service offers."""

    schema_address: str | None = Field(default=None, alias="$schema")
    """Where the JSON Schema lies, for editors."""
    models: tuple[ModelSettings, ...]
    """One entry per model."""
