"""What a person sees of each admin answer."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from controlplane.cli.tables import Column, Row, amount, duration, key, plain, table

Found = dict[str, Any]


def _state(row: Row) -> str:
    pinned = ", pinned" if row.get("pinned") else ""
    return f"{plain(row.get('state'))}{pinned}"


def _replica_state(row: Row) -> str:
    parts = [plain(row.get("state"))]
    parts += [str(row["phase"])] if row.get("phase") else []
    parts += ["unhealthy"] if row.get("healthy") is False else []
    cordon = row.get("cordoned_for")
    parts += [f"leaves for {cordon}" if cordon else "cordoned"] if cordon is not None else []
    return ", ".join(parts)


def _failure(row: Row) -> str:
    if not row.get("failure_reason"):
        return "-"
    retry = row.get("retry_in_seconds")
    return f"{row['failure_reason']}" + (f"; again in {duration(retry)}" if retry else "")


def _holds(row: Row) -> str:
    holds = row.get("holds") or []
    return ", ".join(f"{hold.get('model_id')} ({hold.get('mib')} MiB)" for hold in holds) or "-"


def _moment(value: object) -> str:
    """A moment in this host's time; ISO text is shown as it came."""
    if not isinstance(value, int | float):
        return plain(value)
    return datetime.fromtimestamp(value, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


_MODELS = (
    key("model_id", "model"),
    key("aliases"),
    key("types"),
    key("engine"),
    Column("state", _state),
    amount("vram_mib", "MiB"),
    amount("waiting"),
    Column("running", lambda row: f"{plain(row.get('running'))}/{plain(row.get('max_concurrency'))}", number=True),
    key("reason"),
)
_REPLICAS = (
    key("replica_id", "replica"),
    key("model_id", "model"),
    Column("state", _replica_state),
    key("device_id", "device"),
    amount("reserved_mib", "reserved MiB"),
    amount("measured_mib", "measured MiB"),
    amount("leases"),
    Column("since", lambda row: duration(row.get("state_seconds")), number=True),
    key("handle"),
    Column("last failure", _failure),
)
_DEVICES = (
    key("device_id", "device"),
    key("kind"),
    key("name"),
    amount("total_mib", "total MiB"),
    amount("budget_mib", "budget"),
    amount("declared_mib", "declared"),
    amount("booked_mib", "booked"),
    amount("measured_mib", "measured"),
    amount("unattributed_mib", "others"),
    amount("free_mib", "free"),
    Column("held for", _holds),
)
_REQUESTS = (
    key("request_id", "request"),
    key("model_id", "model"),
    key("type"),
    key("status"),
    amount("priority"),
    Column("created", lambda row: _moment(row.get("created_at"))),
    Column("waited", lambda row: duration(row.get("wait_seconds")), number=True),
    amount("prompt_tokens", "tokens in"),
    amount("completion_tokens", "out"),
    Column("reason", lambda row: plain(row.get("reason") or row.get("error_message"))),
)
_CALLBACKS = (
    key("request_id", "request"),
    key("url"),
    key("state"),
    amount("tries"),
    Column("created", lambda row: _moment(row.get("created_at"))),
    Column("next try", lambda row: _moment(row.get("due_at"))),
    Column("last answer", lambda row: plain(row.get("last_error") or row.get("last_status"))),
)


def models(found: Found) -> RenderableType:
    return table(_MODELS, found["models"], empty="no models are configured")


def replicas(found: Found) -> RenderableType:
    return table(_REPLICAS, found["replicas"], empty="no replicas")


def devices(found: Found) -> RenderableType:
    return table(_DEVICES, found["devices"], empty="no devices")


def requests(found: Found) -> RenderableType:
    return _with_cursor(table(_REQUESTS, found["requests"], empty="no requests"), found)


def callbacks(found: Found) -> RenderableType:
    return _with_cursor(table(_CALLBACKS, found["callbacks"], empty="no such callbacks"), found)


def _with_cursor(shown: RenderableType, found: Found) -> RenderableType:
    cursor = found.get("next_cursor")
    return Group(shown, Text(f"more: --cursor {cursor}")) if cursor else shown


def totals(found: Found) -> str:
    """One line over all models."""
    waiting, running = (_sum(found["models"], name) for name in ("waiting", "running"))
    return f"{waiting} waiting, {running} running"


def explanation(found: Found) -> RenderableType:
    lines = [f"{plain(found.get('subject'))}: {plain(found.get('sentence'))}"]
    if found.get("position") is not None:
        lines.append(f"position in line: {found['position']}")
    if found.get("eta_seconds") is not None:
        lines.append(f"expected in: {duration(found['eta_seconds'])}")
    numbers = found.get("numbers") or {}
    lines += [f"{name.replace('_', ' ')}: {plain(value)}" for name, value in numbers.items()]
    return Text("\n".join(lines))


def model_sentence(row: Row) -> str:
    """A model's state after a command, as one sentence."""
    reason = f": {row['reason']}" if row.get("reason") else ""
    return f"{plain(row.get('model_id'))} is {_state(row)}{reason}"


def _sum(rows: Iterable[Row], name: str) -> int:
    return sum(row.get(name) or 0 for row in rows)
