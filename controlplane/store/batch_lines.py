"""The lines of batches: taken many in one commit, each with its job, and read again with what came of them."""

from sqlalchemy import Connection, case, delete, func, insert, select, tuple_, update

from controlplane.core.model import InferenceType, Outcome
from controlplane.store import jobs
from controlplane.store.batch_records import OVER, BatchStatus, LineEnd, Taking
from controlplane.store.records import Mode, RequestAccepted
from controlplane.store.tables import batch_lines, batches, requests, results

_AT_ONCE = 500
_ACCEPTED = [requests.c[name] for name in RequestAccepted._fields]


def take(connection: Connection, taking: Taking) -> bool:
    """Accept the jobs of these lines and move on in the file, in one.

    False, and nothing is done, when the batch is not in progress any more or has these lines already.
    """
    refused = sum(line.draft is None for line in taking.lines)
    here = (batches.c.status == BatchStatus.IN_PROGRESS.value) & (batches.c.read_bytes == taking.begin)
    moved = {
        "read_bytes": taking.end,
        "read_lines": batches.c.read_lines + len(taking.lines),
        "failed": batches.c.failed + refused,
    }
    statement = update(batches).where(batches.c.batch_id == taking.batch_id, here).values(moved)
    read = connection.execute(statement.returning(batches.c.read_lines)).scalar_one_or_none()
    if read is None:
        return False
    jobs.accept(connection, [line.draft for line in taking.lines if line.draft is not None])
    first = read - len(taking.lines) + 1
    rows = [
        {
            "batch_id": taking.batch_id,
            "n": n,
            "custom_id": line.custom_id,
            "request_id": None if line.draft is None else line.draft.accepted.request_id,
            "http_status": None if line.refusal is None else line.refusal[0],
            "body": None if line.refusal is None else line.refusal[1],
        }
        for n, line in enumerate(taking.lines, first)
    ]
    if rows:
        connection.execute(insert(batch_lines), rows)
    return True


def ends(connection: Connection, batch_id: str, after: int, limit: int) -> list[LineEnd]:
    """What came of the lines behind line `after`, in their order."""
    line = batch_lines.c
    query = (
        select(
            *(line.n, line.custom_id, line.request_id),
            func.coalesce(line.http_status, requests.c.http_status),
            func.coalesce(line.body, results.c.body),
            *(requests.c.outcome, requests.c.error_code, requests.c.error_message),
        )
        .select_from(batch_lines)
        .outerjoin(requests, requests.c.request_id == line.request_id)
        .outerjoin(results, results.c.request_id == line.request_id)
        .where(line.batch_id == batch_id, line.n > after)
    )
    rows = connection.execute(query.order_by(line.n).limit(limit))
    return [_end(LineEnd(*row)) for row in rows]


def not_ended(connection: Connection, batch_id: str, limit: int) -> list[RequestAccepted]:
    """Some of its jobs that are open, in their order."""
    query = select(*_ACCEPTED).join(batch_lines, batch_lines.c.request_id == requests.c.request_id)
    query = query.where(batch_lines.c.batch_id == batch_id, requests.c.finished_at.is_(None))
    rows = [RequestAccepted(*row) for row in connection.execute(query.order_by(batch_lines.c.n).limit(limit))]
    return [row._replace(type=InferenceType(row.type), mode=Mode(row.mode)) for row in rows]


def expired(connection: Connection, batch_id: str) -> int:
    """How many of its lines had no slot in time."""
    late = case((requests.c.outcome == Outcome.EXPIRED.value, 1), else_=0)
    query = select(func.coalesce(func.sum(late), 0)).select_from(batch_lines)
    query = query.join(requests, requests.c.request_id == batch_lines.c.request_id)
    return int(connection.scalar(query.where(batch_lines.c.batch_id == batch_id)) or 0)


def clear(connection: Connection) -> int:
    """Delete lines of batches that are over, a few at a time; returns how many."""
    over = select(batches.c.batch_id).where(batches.c.status.in_([status.value for status in OVER]))
    place = batch_lines.c.batch_id, batch_lines.c.n
    some = select(*place).where(batch_lines.c.batch_id.in_(over)).limit(_AT_ONCE)
    return connection.execute(delete(batch_lines).where(tuple_(*place).in_(some))).rowcount


def _end(line: LineEnd) -> LineEnd:
    return line if line.outcome is None else line._replace(outcome=Outcome(line.outcome))
