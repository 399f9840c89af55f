"""Jobs: what an open one is to do, the pictures that it needs, results, tags."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "payloads",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("batch_key", sa.Text(), nullable=False),
        sa.Column("callback_url", sa.Text(), nullable=True),
        sa.Column("callback_secret", sa.Text(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        _of_the_request("payloads"),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_payloads")),
    )
    op.create_table(
        "pictures",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["request_id"], ["payloads.request_id"], name=op.f("fk_pictures_request_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("request_id", "artifact", name=op.f("pk_pictures")),
    )
    op.create_table(
        "results",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        _of_the_request("results"),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_results")),
    )
    op.create_table(
        "tags",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        _of_the_request("tags"),
        sa.PrimaryKeyConstraint("request_id", "tag", name=op.f("pk_tags")),
    )
    op.create_index("ix_tags_tag", "tags", ["tag", "request_id"])


def _of_the_request(table: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_request_id")
    return sa.ForeignKeyConstraint(["request_id"], ["requests.request_id"], name=name, ondelete="CASCADE")
