"""GET /api/v1/stats: what waits and runs now, and what the requests of some time came to."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from controlplane.api.context import Context
from controlplane.core.model import RequestStatus
from controlplane.store.totals import Total

_DAY_SECONDS = 86400.0
_LONGEST_SECONDS = 366 * _DAY_SECONDS


class ModelStats(BaseModel):
    """`waiting` and `running` now; the rest of requests accepted within the time asked for."""

    model: str
    waiting: int
    running: int
    requests: dict[str, int]
    input_tokens: int
    output_tokens: int
    mean_wait_seconds: float | None


class Stats(BaseModel):
    seconds: float
    waiting: int
    running: int
    requests: dict[str, int]
    models: list[ModelStats]


def stats_router(context: Context) -> APIRouter:
    router = APIRouter(prefix="/api/v1", tags=["requests"])
    world, store = context.world, context.store

    @router.get("/stats")
    async def stats(seconds: Annotated[float, Query(gt=0, le=_LONGEST_SECONDS)] = _DAY_SECONDS) -> Stats:
        """Of all callers; `seconds` back from now."""
        totals = await store.totals(world.clock() - seconds)
        names = sorted({*world.models, *(total.model_id for total in totals)})
        models = [one(name, [total for total in totals if total.model_id == name]) for name in names]
        return Stats(
            seconds=seconds,
            waiting=sum(model.waiting for model in models),
            running=sum(model.running for model in models),
            requests=_counts(totals),
            models=models,
        )

    def one(model_id: str, totals: list[Total]) -> ModelStats:
        waits = [(total.mean_wait_seconds, total.count) for total in totals if total.mean_wait_seconds is not None]
        weight = sum(count for _, count in waits)
        return ModelStats(
            model=model_id,
            waiting=world.queue.waiting(model_id),
            running=sum(slots.leases for slots in world.by_load(model_id)),
            requests=_counts(totals),
            input_tokens=sum(total.prompt_tokens for total in totals),
            output_tokens=sum(total.completion_tokens for total in totals),
            mean_wait_seconds=sum(mean * count for mean, count in waits) / weight if weight else None,
        )

    return router


def _counts(totals: list[Total]) -> dict[str, int]:
    counts = dict.fromkeys((status.value for status in RequestStatus), 0)
    for total in totals:
        counts[total.status.value] += total.count
    return counts
