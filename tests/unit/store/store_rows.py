"""Rows as the control plane would write them, with only what a test cares about spelt out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine

from controlplane.core.model import InferenceType, Outcome, ReplicaState
from controlplane.store.database import Place
from controlplane.store.records import (
    AttemptRecord,
    ReplicaChange,
    ReplicaRecord,
    RequestAccepted,
    RequestFinished,
    RequestStarted,
)


def place_of(text: str) -> Place:
    """What a child process was told."""
    return text if text.startswith("postgresql:") else Path(text)


def engine_of(place: Place) -> Engine:
    """How a foreign tool comes to a store."""
    if isinstance(place, Path):
        return create_engine(f"sqlite:///{place}")
    return create_engine(place.replace("postgresql:", "postgresql+psycopg:", 1))


class ManualClock:
    """A clock that tests set by hand."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def replica(replica_id: str = "llm-0", generation: int = 1, **fields: Any) -> ReplicaRecord:
    record = ReplicaRecord(
        replica_id=replica_id,
        model_id="llm",
        generation=generation,
        state=ReplicaState.STARTING,
        device_id="host",
        config_hash="abc",
        created_at=1000.0,
        changed_at=1000.0,
        reserved_mib=700,
    )
    return replace(record, **fields)


def create(record: ReplicaRecord) -> ReplicaChange:
    return ReplicaChange(record, expected_generation=None)


def accepted(request_id: str, created_at: float = 1000.0, **fields: Any) -> RequestAccepted:
    row = RequestAccepted(request_id, "/v1/chat/completions", InferenceType.TEXT2TEXT, "llm", 50, created_at)
    return row._replace(**fields)


def attempt(request_id: str, n: int = 1, **fields: Any) -> AttemptRecord:
    return AttemptRecord(request_id, n, "llm-0", 1, 1001.0)._replace(**fields)


def started(row: RequestAccepted, n: int = 1) -> RequestStarted:
    return RequestStarted(row, attempt(row.request_id, n))


def finished(row: RequestAccepted, outcome: Outcome = Outcome.SUCCEEDED, **fields: Any) -> RequestFinished:
    last = attempt(row.request_id, finished_at=1002.0, outcome=outcome)
    return RequestFinished(row, outcome, 1002.0, 1001.0, (last,))._replace(**fields)
