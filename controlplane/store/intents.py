"""What the operator asked for at run time, one row per model with anything asked."""

from dataclasses import asdict

from sqlalchemy import Connection, delete, select

from controlplane.core.model import Intent
from controlplane.store import events
from controlplane.store.records import EventDraft
from controlplane.store.tables import intents
from controlplane.store.upsert import upsert


def write(connection: Connection, model_id: str, intent: Intent, event: EventDraft | None, at: float) -> None:
    """Replace the model's intent; an empty one leaves no row."""
    if intent == Intent():
        connection.execute(delete(intents).where(intents.c.model_id == model_id))
    else:
        connection.execute(upsert(connection, intents), {"model_id": model_id, **asdict(intent)})
    events.write_draft(connection, event, model_id, at)


def read(connection: Connection) -> dict[str, Intent]:
    rows = connection.execute(select(intents).order_by(intents.c.model_id))
    return {row.model_id: Intent(pinned=row.pinned, load_since=row.load_since) for row in rows}
