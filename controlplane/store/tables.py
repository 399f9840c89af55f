"""The tables, in the words of SQLAlchemy Core; migrations/ must arrive at the same schema.

Only what SQLite and PostgreSQL both understand. Times are unix seconds as doubles.
"""

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

from controlplane.core.model import InferenceType, Outcome, ReplicaState, RequestStatus
from controlplane.store.batch_records import BatchStatus, Purpose
from controlplane.store.deliveries import DeliveryState
from controlplane.store.records import LoadTier, Mode

metadata = MetaData(
    naming_convention={
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, values: Iterable[StrEnum]) -> CheckConstraint:
    # Not IN: SQLite builds a temporary table for the list at every row, which doubles the cost of an insert.
    return CheckConstraint(" OR ".join(f"{column} = '{value.value}'" for value in values), name=column)


requests = Table(
    "requests",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("mode", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("deadline_at", Double),
    Column("client", Text),
    Column("stream", Boolean, nullable=False),
    Column("status", Text, nullable=False),
    Column("outcome", Text),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("attempts", Integer, nullable=False),
    Column("http_status", Integer),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("wait_seconds", Double),
    Column("first_byte_seconds", Double),
    _one_of("mode", Mode),
    _one_of("type", InferenceType),
    _one_of("status", RequestStatus),
    _one_of("outcome", Outcome),
    CheckConstraint("priority BETWEEN 0 AND 100", name="priority"),
)

# Recovery reads the whole queue in order from this index alone; rows leave it when they end,
# so it stays as small as the queue however long the history grows.
Index(
    "ix_requests_open",
    requests.c.mode,
    requests.c.status,
    requests.c.priority,
    requests.c.created_at,
    requests.c.request_id,
    requests.c.model_id,
    requests.c.deadline_at,
    # Always NULL here; SQLite before 3.42 would look at the row just to see that.
    requests.c.finished_at,
    sqlite_where=requests.c.finished_at.is_(None),
    postgresql_where=requests.c.finished_at.is_(None),
)
Index("ix_requests_created", requests.c.created_at, requests.c.request_id)
Index("ix_requests_model", requests.c.model_id, requests.c.created_at, requests.c.request_id)

attempts = Table(
    "attempts",
    metadata,
    Column("request_id", Text, ForeignKey("requests.request_id", ondelete="CASCADE"), primary_key=True),
    Column("n", Integer, primary_key=True),
    # No foreign key: the history of an attempt outlives its replica.
    Column("replica_id", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("outcome", Text),
    Column("error", Text),
    _one_of("outcome", Outcome),
    CheckConstraint("n >= 1", name="n"),
)

Index(
    "ix_attempts_open",
    attempts.c.request_id,
    sqlite_where=attempts.c.finished_at.is_(None),
    postgresql_where=attempts.c.finished_at.is_(None),
)

# What an open job is to do. Apart from its request, so that neither the history nor the queue carries bodies.
payloads = Table(
    "payloads",
    metadata,
    Column("request_id", Text, ForeignKey("requests.request_id", ondelete="CASCADE"), primary_key=True),
    Column("rows", Integer, nullable=False),
    Column("batch_key", Text, nullable=False),
    Column("callback_url", Text),
    Column("callback_secret", Text),
    Column("body", LargeBinary, nullable=False),
)

pictures = Table(
    "pictures",
    metadata,
    Column("request_id", Text, ForeignKey("payloads.request_id", ondelete="CASCADE"), primary_key=True),
    Column("artifact", Text, primary_key=True),
)

results = Table(
    "results",
    metadata,
    Column("request_id", Text, ForeignKey("requests.request_id", ondelete="CASCADE"), primary_key=True),
    Column("body", LargeBinary, nullable=False),
)

tags = Table(
    "tags",
    metadata,
    Column("request_id", Text, ForeignKey("requests.request_id", ondelete="CASCADE"), primary_key=True),
    Column("tag", Text, primary_key=True),
)
# Ids grow with time, so this is also the order in which the requests of a tag are listed.
Index("ix_tags_tag", tags.c.tag, tags.c.request_id)

replicas = Table(
    "replicas",
    metadata,
    Column("replica_id", Text, primary_key=True),
    Column("model_id", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("device_id", Text, nullable=False),
    Column("config_hash", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("handle", Text, nullable=False),
    Column("cordoned_for", Text),
    Column("failures", Integer, nullable=False),
    Column("retry_at", Double, nullable=False),
    Column("failure_reason", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("ready_at", Double),
    Column("last_used_at", Double, nullable=False),
    Column("revive", Boolean, nullable=False),
    _one_of("state", ReplicaState),
)

# A table of its own, not a column: a reservation is what the ledger sums, and it ends at
# another time than the replica's row does.
reservations = Table(
    "reservations",
    metadata,
    Column("replica_id", Text, ForeignKey("replicas.replica_id", ondelete="CASCADE"), primary_key=True),
    Column("device_id", Text, nullable=False),
    Column("mib", Integer, nullable=False),
    CheckConstraint("mib >= 0", name="mib"),
)

intents = Table(
    "intents",
    metadata,
    Column("model_id", Text, primary_key=True),
    Column("pinned", Boolean),
    Column("load_since", Double),
)

load_times = Table(
    "load_times",
    metadata,
    Column("model_id", Text, primary_key=True),
    Column("config_hash", Text, primary_key=True),
    Column("tier", Text, primary_key=True),
    Column("samples", Integer, nullable=False),
    Column("mean_seconds", Double, nullable=False),
    Column("peak_mib", Integer, nullable=False),
    Column("last_at", Double, nullable=False),
    _one_of("tier", LoadTier),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", JSON, nullable=False),
    # Ids are cursors of readers: one that pruning freed must not come back.
    sqlite_autoincrement=True,
)

# Callbacks that are due, were delivered, or were given up. No foreign key: a callback outlives its request's row.
outbox = Table(
    "outbox",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("url", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("secret_name", Text),
    Column("body", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("due_at", Double),
    Column("ended_at", Double),
    Column("last_status", Integer),
    Column("last_error", Text),
    _one_of("state", DeliveryState),
)
# Who is due is found without a look at the rows, also behind a long line of one receiver that hangs.
Index(
    "ix_outbox_due",
    outbox.c.due_at,
    outbox.c.host,
    outbox.c.request_id,
    sqlite_where=outbox.c.due_at.is_not(None),
    postgresql_where=outbox.c.due_at.is_not(None),
)
Index("ix_outbox_state", outbox.c.state, outbox.c.created_at, outbox.c.request_id)

# Answers under callers' keys. A job's key holds its request from the moment it is accepted, before there is an answer.
idempotency = Table(
    "idempotency",
    metadata,
    Column("client", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("request_id", Text),
    Column("expires_at", Double, nullable=False),
    Column("status", Integer),
    Column("headers", JSON(none_as_null=True)),
    Column("body", LargeBinary),
)
Index("ix_idempotency_expires", idempotency.c.expires_at)

# What callers uploaded and what batches came to; the content is in the files folder, under the same id.
files = Table(
    "files",
    metadata,
    Column("file_id", Text, primary_key=True),
    Column("client", Text),
    Column("purpose", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    _one_of("purpose", Purpose),
)
Index("ix_files_created", files.c.created_at, files.c.file_id)

batches = Table(
    "batches",
    metadata,
    Column("batch_id", Text, primary_key=True),
    Column("client", Text),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("stamps", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("errors", JSON, nullable=False),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("read_lines", Integer, nullable=False),
    Column("read_bytes", BigInteger, nullable=False),
    Column("output_expires_seconds", Integer, nullable=False),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    _one_of("status", BatchStatus),
)
Index("ix_batches_created", batches.c.created_at, batches.c.batch_id)

# The lines of batches that are not over. No reference to requests: a line that was refused at the door has none.
batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", Text, ForeignKey("batches.batch_id", ondelete="CASCADE"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("custom_id", Text, nullable=False),
    Column("request_id", Text),
    Column("http_status", Integer),
    Column("body", LargeBinary),
)
Index("ix_batch_lines_request", batch_lines.c.request_id, unique=True)
