"""What the outbox takes in and gives back, as immutable values. Times are unix seconds (UTC)."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class DeliveryState(StrEnum):
    """`dead`: given up, until somebody has it sent again."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Hosts:
    """Whose deliveries to look for: `among` None means anybody's, `without` is left out."""

    among: frozenset[str] | None = None
    without: frozenset[str] = frozenset()


class DueHead(NamedTuple):
    """A delivery whose time has come; `host` is host:port of its address."""

    request_id: str
    host: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is to be delivered. `tries` counts those that ended."""

    request_id: str
    url: str
    secret_name: str | None
    body: bytes = field(repr=False)
    tries: int


@dataclass(frozen=True, slots=True)
class DeliveryTry:
    """How a try ended. `due_at` is the next one's time; None: delivered, or dead when `state` says so.

    Written only if the row is still at `tries_before`.
    """

    request_id: str
    tries_before: int
    state: DeliveryState
    at: float
    due_at: float | None = None
    status: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One row of the outbox without its body; `last_status` is None where the receiver did not answer."""

    request_id: str
    url: str
    secret_name: str | None
    state: DeliveryState
    tries: int
    created_at: float
    due_at: float | None
    ended_at: float | None
    last_status: int | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Deliveries, newest first. `next_cursor` None: there are no older ones."""

    deliveries: tuple[DeliveryRecord, ...]
    next_cursor: str | None
