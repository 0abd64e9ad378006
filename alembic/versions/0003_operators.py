"""replays of dead letters, and who did what"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NOW = sa.text("now()")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index(op.f("ix_audit_log_at_id"), "audit_log", ["at", "id"])
    op.create_table(
        "dead_letter_replays",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("wanted", postgresql.JSONB(), nullable=False),
        sa.Column("rate", sa.Integer(), nullable=False),
        sa.Column("force", sa.Boolean(), nullable=False),
        sa.Column("runner", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("matched", sa.Integer(), nullable=False),
        sa.Column("replayed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("skipped", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.Column("cursor_partition", sa.Integer(), server_default="-1", nullable=False),
        sa.Column("cursor_offset", sa.BigInteger(), server_default="-1", nullable=False),
        sa.Column("next_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("updated_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letter_replays")),
    )
    op.create_index(op.f("ix_dead_letter_replays_created_at_id"), "dead_letter_replays", ["created_at", "id"])
    op.create_index(
        "ix_dead_letter_replays_open",
        "dead_letter_replays",
        ["created_at"],
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    for column in _failure_columns():
        op.add_column("delivery_failures", column)
    op.create_index(
        op.f("ix_delivery_failures_dlq_partition_dlq_offset"), "delivery_failures", ["dlq_partition", "dlq_offset"]
    )


def _failure_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("generation", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("indexed_at", _TIME, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("replayed_at", _TIME, nullable=True),
        sa.Column("replay_id", sa.UUID(), nullable=True),
        sa.Column("unreplayable", sa.Text(), nullable=True),
        sa.Column(
            "dlq_partition",
            sa.Integer(),
            sa.Computed("split_part(id, '-', 1)::integer", persisted=True),
            nullable=False,
        ),
        sa.Column(
            "dlq_offset",
            sa.BigInteger(),
            sa.Computed("split_part(id, '-', 2)::bigint", persisted=True),
            nullable=False,
        ),
    ]


def downgrade() -> None:
    op.drop_index(op.f("ix_delivery_failures_dlq_partition_dlq_offset"), table_name="delivery_failures")
    for column in reversed(_failure_columns()):
        op.drop_column("delivery_failures", column.name)
    op.drop_table("dead_letter_replays")
    op.drop_table("audit_log")
