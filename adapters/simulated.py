"""The simulated engine as an `EngineAdapter`: it speaks vLLM's wire, so only its launch is its own.

Its options are the keys of its script; `script` gives a whole one as JSON text, for what is not a plain value.
With `batching` "step" or "call" it is fed as such an engine is; it computes as ever.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import orjson

from adapters.base import Batching, Call, Header, Launch, ModelLaunch, NormalError, Probe, Target, Verdict, WorkProgress
from adapters.batching import image_key, image_rows
from adapters.endpoint import Endpoint
from adapters.errors import LaunchError
from adapters.tasks import Task, TaskCall, TaskResult, openai_call, openai_result, openai_stream
from adapters.vllm import errors, log, probe, verdict, wire
from engines.simulated.script import Script, ScriptError, parse_script

# What the process takes before it allocates what it claims.
OVERHEAD_MIB = 48
_START_SECONDS = 60.0
_STOP_GRACE_SECONDS = 5.0
_IMAGE_PATHS = frozenset({"/v1/images/generations", "/v1/images/edits", "/v1/images/process"})
_NOT_SCRIPTED = frozenset({"script", "ready_timeout_seconds", "stop_grace_seconds", "batching", "linger_seconds"})
_Mode = Literal["continuous", "steps", "calls"]
_MODES: Mapping[str, _Mode] = {"step": "steps", "call": "calls"}


class SimulatedAdapter:
    """Stateless."""

    kind = "simulated"

    def batching(self, model: ModelLaunch) -> Batching:
        mode: _Mode = _MODES.get(str(model.options.get("batching")), "continuous")
        linger = model.options.get("linger_seconds", 0.0)
        return Batching(mode, model.max_batch_size or model.max_concurrency, float(linger))

    def rows(self, path: str, fields: Mapping[str, object]) -> int:
        return image_rows(fields) if path in _IMAGE_PATHS else 1

    def batch_key(self, path: str, fields: Mapping[str, object]) -> str:
        return image_key(path, fields)

    def serves(self, path: str) -> bool:
        return path in wire.PATHS or path in _IMAGE_PATHS

    def launch(self, model: ModelLaunch, target: Target) -> Launch:  # noqa: ARG002
        """The same on every device: what it allocates is host memory, whatever the device. Raises `LaunchError`."""
        try:
            fields, script = _script(model)
        except ScriptError as exc:
            raise LaunchError(f"cannot start {model.model_id}: {exc}") from exc
        names = (model.model_id, *model.aliases)
        command = ("{python}", "-m", "engines.simulated", "--uds", "{uds}", "--model", *names)
        ready_timeout = model.options.get("ready_timeout_seconds", _START_SECONDS + script.load_seconds)
        return Launch(
            environment=None,
            argv=(*command, "--script", orjson.dumps(fields).decode(), *model.args),
            env={"PYTHONUNBUFFERED": "1", **model.env},
            listen="unix",
            ready_timeout_seconds=float(ready_timeout),
            stop_grace_seconds=float(model.options.get("stop_grace_seconds", _STOP_GRACE_SECONDS)),
        )

    def task_call(self, task: Task, model_name: str) -> TaskCall:
        return openai_call(task, model_name)

    def task_stream(self, call: TaskCall) -> TaskCall | None:
        return openai_stream(call)

    def task_result(self, task: Task, body: bytes) -> TaskResult:
        return openai_result(task, body)

    async def progress(self, endpoint: Endpoint, request_id: str) -> WorkProgress | None:  # noqa: ARG002
        return None

    async def end(self, endpoint: Endpoint, request_id: str) -> None:
        """Nothing is kept: work ends with its connection."""

    async def probe(self, endpoint: Endpoint) -> Probe:
        return await probe.look(endpoint)

    def headers(self, call: Call) -> list[Header]:
        return wire.request_headers(call)

    def error(self, status: int, body: bytes) -> NormalError:
        return errors.normalise(status, body)

    def verdict(self, tail: bytes, *, stream: bool) -> Verdict:
        return verdict.judge(tail, stream=stream)

    def cold_phase(self, log_lines: Sequence[str]) -> str:
        return log.cold_phase(log_lines)

    def failure(self, log_lines: Sequence[str]) -> str:
        return log.failure(log_lines)


def _script(model: ModelLaunch) -> tuple[dict[str, object], Script]:
    """The script as it is passed on, and as it reads; it claims the whole budget unless it says otherwise."""
    fields: dict[str, object] = {"max_num_seqs": model.max_concurrency, **_whole_script(model)}
    if "image2text" in model.types:
        fields.setdefault("takes_images", True)
    fields |= {name: value for name, value in model.options.items() if name not in _NOT_SCRIPTED}
    script = parse_script(orjson.dumps(fields).decode())
    if "memory_mib" not in fields:
        fields["memory_mib"] = max(0, model.budget_mib - OVERHEAD_MIB - script.kv_cache_mib)
    return fields, script


def _whole_script(model: ModelLaunch) -> dict[str, object]:
    text = model.options.get("script", "{}")
    try:
        fields = orjson.loads(str(text))
    except orjson.JSONDecodeError as exc:
        raise LaunchError(f"cannot start {model.model_id}: the option script is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise LaunchError(f"cannot start {model.model_id}: the option script must be a JSON object")
    return fields
