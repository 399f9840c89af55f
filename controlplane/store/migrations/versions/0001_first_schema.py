"""The first schema: requests and attempts, replicas and reservations, intents, load times, events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "intents",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("pinned", sa.Boolean(), nullable=True),
        sa.Column("load_since", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_intents")),
    )
    op.create_table(
        "load_times",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("config_hash", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("mean_seconds", sa.Double(), nullable=False),
        sa.Column("peak_mib", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.CheckConstraint("tier = 'cold' OR tier = 'wake'", name=op.f("ck_load_times_tier")),
        sa.PrimaryKeyConstraint("model_id", "config_hash", "tier", name=op.f("pk_load_times")),
    )
    op.create_table(
        "replicas",
        sa.Column("replica_id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("config_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("handle", sa.Text(), nullable=False),
        sa.Column("cordoned_for", sa.Text(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_at", sa.Double(), nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("ready_at", sa.Double(), nullable=True),
        sa.Column("last_used_at", sa.Double(), nullable=False),
        sa.Column("revive", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "state = 'starting' OR state = 'ready' OR state = 'asleep' OR "
            "state = 'stopping' OR state = 'stopped' OR state = 'failed'",
            name=op.f("ck_replicas_state"),
        ),
        sa.PrimaryKeyConstraint("replica_id", name=op.f("pk_replicas")),
    )
    op.create_table(
        "requests",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("deadline_at", sa.Double(), nullable=True),
        sa.Column("client", sa.Text(), nullable=True),
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("wait_seconds", sa.Double(), nullable=True),
        sa.Column("first_byte_seconds", sa.Double(), nullable=True),
        sa.CheckConstraint("mode = 'sync' OR mode = 'async'", name=op.f("ck_requests_mode")),
        sa.CheckConstraint(
            "type = 'text2text' OR type = 'text2image' OR "
            "type = 'image2text' OR type = 'image_processing' OR type = 'embedding'",
            name=op.f("ck_requests_type"),
        ),
        sa.CheckConstraint(
            "status = 'pending' OR status = 'processing' OR status = 'complete' OR "
            "status = 'failed' OR status = 'cancelled' OR status = 'expired'",
            name=op.f("ck_requests_status"),
        ),
        sa.CheckConstraint(
            "outcome = 'succeeded' OR outcome = 'failed' OR "
            "outcome = 'cancelled' OR outcome = 'expired' OR outcome = 'interrupted'",
            name=op.f("ck_requests_outcome"),
        ),
        sa.CheckConstraint("priority BETWEEN 0 AND 100", name=op.f("ck_requests_priority")),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_requests")),
    )
    op.create_index("ix_requests_created", "requests", ["created_at", "request_id"])
    op.create_index("ix_requests_model", "requests", ["model_id", "created_at", "request_id"])
    op.create_index(
        "ix_requests_open",
        "requests",
        ["mode", "status", "priority", "created_at", "request_id", "model_id", "deadline_at", "finished_at"],
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )

    op.create_table(
        "attempts",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("replica_id", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "outcome = 'succeeded' OR outcome = 'failed' OR "
            "outcome = 'cancelled' OR outcome = 'expired' OR outcome = 'interrupted'",
            name=op.f("ck_attempts_outcome"),
        ),
        sa.CheckConstraint("n >= 1", name=op.f("ck_attempts_n")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["requests.request_id"], name=op.f("fk_attempts_request_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("request_id", "n", name=op.f("pk_attempts")),
    )
    op.create_index(
        "ix_attempts_open",
        "attempts",
        ["request_id"],
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )

    op.create_table(
        "reservations",
        sa.Column("replica_id", sa.Text(), nullable=False),
        sa.Column("device_id", sa.Text(), nullable=False),
        sa.Column("mib", sa.Integer(), nullable=False),
        sa.CheckConstraint("mib >= 0", name=op.f("ck_reservations_mib")),
        sa.ForeignKeyConstraint(
            ["replica_id"], ["replicas.replica_id"], name=op.f("fk_reservations_replica_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("replica_id", name=op.f("pk_reservations")),
    )
