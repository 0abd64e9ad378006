"""samples of the lanes"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "queue_metrics",
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("sampled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lag", sa.BigInteger(), nullable=False),
        sa.Column("in_total", sa.BigInteger(), nullable=True),
        sa.Column("out_total", sa.BigInteger(), nullable=True),
        sa.Column("in_per_second", sa.Float(), nullable=True),
        sa.Column("out_per_second", sa.Float(), nullable=True),
        sa.Column("oldest_age_seconds", sa.Float(), nullable=True),
        sa.Column("members", sa.Integer(), nullable=True),
        sa.Column("is_minutely", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("lane", "sampled_at", name=op.f("pk_queue_metrics")),
    )
    op.create_index(op.f("ix_queue_metrics_sampled_at"), "queue_metrics", ["sampled_at"], unique=False)
    op.create_index(
        "ix_queue_metrics_fine",
        "queue_metrics",
        ["sampled_at"],
        unique=False,
        postgresql_where=sa.text("NOT is_minutely"),
    )


def downgrade() -> None:
    op.drop_table("queue_metrics")
