"""The diffusers engine as an `EngineAdapter`: puts the parts of this package behind the one interface."""

import os
from collections.abc import Callable, Mapping, Sequence

from adapters.base import (
    Batching,
    Call,
    Header,
    Launch,
    ModelLaunch,
    NormalError,
    Probe,
    Target,
    Verdict,
    WorkProgress,
)
from adapters.batching import image_key, image_rows
from adapters.diffusers import errors, kept_work, launch, log, probe, verdict, wire
from adapters.diffusers.footprint import Footprint, read_footprint
from adapters.endpoint import Endpoint
from adapters.tasks import Task, TaskCall, TaskResult, openai_call, openai_result, openai_stream


class DiffusersAdapter:
    """Stateless. `footprint` reads what a model folder needs; `cores`: of the host, by default all that we may use."""

    kind = "diffusers"

    def __init__(self, footprint: Callable[[str], Footprint] = read_footprint, cores: int | None = None) -> None:
        self._footprint = footprint
        self._cores = len(os.sched_getaffinity(0)) if cores is None else cores

    def batching(self, model: ModelLaunch) -> Batching:
        return launch.plan_batching(model)

    def rows(self, path: str, fields: Mapping[str, object]) -> int:
        return 1 if path == wire.PROCESS_PATH else image_rows(fields)

    def batch_key(self, path: str, fields: Mapping[str, object]) -> str:
        return image_key(path, fields)

    def serves(self, path: str) -> bool:
        return path in wire.PATHS

    def launch(self, model: ModelLaunch, target: Target) -> Launch:
        return launch.plan_launch(model, target, self._footprint, self._cores)

    def task_call(self, task: Task, model_name: str) -> TaskCall:
        return openai_call(task, model_name)

    def task_stream(self, call: TaskCall) -> TaskCall | None:
        return openai_stream(call)

    def task_result(self, task: Task, body: bytes) -> TaskResult:
        return openai_result(task, body)

    async def progress(self, endpoint: Endpoint, request_id: str) -> WorkProgress | None:
        return await kept_work.look(endpoint, request_id)

    async def end(self, endpoint: Endpoint, request_id: str) -> None:
        await kept_work.end(endpoint, request_id)

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
