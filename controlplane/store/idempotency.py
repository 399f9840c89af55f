"""Answers under the keys that callers gave, for 24 hours: the first one stands, other work under its key is refused."""

from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, Row, select

from controlplane.store.errors import KeyReused
from controlplane.store.records import IdempotencyClaim
from controlplane.store.tables import idempotency
from controlplane.store.upsert import upsert

KEPT_SECONDS: Final = 24 * 3600.0

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it went over the wire."""

    status: int
    headers: Headers
    body: bytes = field(repr=False)


def claim(connection: Connection, wanted: IdempotencyClaim, request_id: str, at: float) -> str:
    """Tie the key to this request, in the transaction that accepts it; the id that the key stands for.

    Another id than `request_id`: the key was used before, and nothing is to be accepted. Raises KeyReused.
    """
    row = _live(connection, wanted, at)
    if row is not None and row.request_id is not None:
        return str(row.request_id)
    _write(connection, wanted, request_id, None, at)
    return request_id


def answer(connection: Connection, wanted: IdempotencyClaim, at: float) -> KeptAnswer | None:
    """What was answered under this key. Raises KeyReused."""
    row = _live(connection, wanted, at)
    if row is None or row.status is None:
        return None
    return KeptAnswer(row.status, tuple((name, value) for name, value in row.headers), row.body)


def keep(connection: Connection, wanted: IdempotencyClaim, given: KeptAnswer, at: float) -> None:
    """Write the answer. The request that the key stands for stays. Raises KeyReused."""
    row = _live(connection, wanted, at)
    _write(connection, wanted, row.request_id if row is not None else None, given, at)


def _live(connection: Connection, wanted: IdempotencyClaim, at: float) -> Row[tuple[object, ...]] | None:
    """The row of the key, unless its time is over."""
    row = idempotency.c
    mine = (row.client == (wanted.client or "")) & (row.key == wanted.key) & (row.expires_at > at)
    found = connection.execute(select(idempotency).where(mine)).one_or_none()
    if found is not None and found.fingerprint != wanted.fingerprint:
        raise KeyReused("this Idempotency-Key was used for another request; take a new key for new work")
    return found


def _write(
    connection: Connection, wanted: IdempotencyClaim, request_id: str | None, given: KeptAnswer | None, at: float
) -> None:
    row = {
        "client": wanted.client or "",
        "key": wanted.key,
        "fingerprint": wanted.fingerprint,
        "request_id": request_id,
        "expires_at": at + KEPT_SECONDS,
        "status": given and given.status,
        "headers": [list(pair) for pair in given.headers] if given else None,
        "body": given and given.body,
    }
    connection.execute(upsert(connection, idempotency), row)
