"""Requests counted: how many of each model came to what, in some time."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from controlplane.core.model import RequestStatus
from controlplane.store.tables import requests


@dataclass(frozen=True, slots=True)
class Total:
    """The requests of one model in one status. Means are None where nothing was measured."""

    model_id: str
    status: RequestStatus
    count: int
    prompt_tokens: int
    completion_tokens: int
    mean_wait_seconds: float | None


def since(connection: Connection, at: float) -> list[Total]:
    """Of requests accepted at `at` or later, ordered by model."""
    column = requests.c
    query = (
        select(
            column.model_id,
            column.status,
            func.count(),
            func.coalesce(func.sum(column.prompt_tokens), 0),
            func.coalesce(func.sum(column.completion_tokens), 0),
            func.avg(column.wait_seconds),
        )
        .where(column.created_at >= at)
        .group_by(column.model_id, column.status)
        .order_by(column.model_id, column.status)
    )
    return [
        Total(model_id, RequestStatus(status), count, int(prompt), int(completion), wait)
        for model_id, status, count, prompt, completion, wait in connection.execute(query)
    ]
