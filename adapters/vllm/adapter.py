"""vLLM as an `EngineAdapter`: puts the parts of this package behind the one interface."""

import os
from collections.abc import Callable, Mapping, Sequence

from adapters.base import Batching, Call, Header, Launch, ModelLaunch, NormalError, Probe, Target, Verdict, WorkProgress
from adapters.endpoint import Endpoint
from adapters.tasks import Task, TaskCall, TaskResult, openai_call, openai_result, openai_stream
from adapters.vllm import errors, launch, log, probe, verdict, wire
from adapters.vllm.footprint import Footprint, read_footprint


class VllmAdapter:
    """Stateless. `footprint` reads what a model folder needs; `cores`: of the host, by default all that we may use."""

    kind = "vllm"

    def __init__(self, footprint: Callable[[str], Footprint] = read_footprint, cores: int | None = None) -> None:
        self._footprint = footprint
        self._cores = len(os.sched_getaffinity(0)) if cores is None else cores

    def batching(self, model: ModelLaunch) -> Batching:
        return Batching("continuous", model.max_concurrency)

    def rows(self, path: str, fields: Mapping[str, object]) -> int:  # noqa: ARG002
        return 1

    def batch_key(self, path: str, fields: Mapping[str, object]) -> str:  # noqa: ARG002
        return ""

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
