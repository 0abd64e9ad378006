"""bounces and suppressions"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bounce_records",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("category", sa.Text(), nullable=True),
        sa.Column("delivery_id", sa.UUID(), nullable=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_over", sa.Boolean(), server_default="false", nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_bounce_records")),
    )
    op.create_index(op.f("ix_bounce_records_occurred_at_id"), "bounce_records", ["occurred_at", "id"], unique=False)
    op.create_index(
        op.f("ix_bounce_records_address_occurred_at"), "bounce_records", ["address", "occurred_at"], unique=False
    )
    op.create_index(op.f("ix_bounce_records_id"), "bounce_records", ["id"], unique=True)
    op.create_table(
        "category_pauses",
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent", sa.Integer(), nullable=False),
        sa.Column("bounced", sa.Integer(), nullable=False),
        sa.Column("resumed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resumed_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("category", "channel", name=op.f("pk_category_pauses")),
    )
    op.create_table(
        "category_sends",
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("counted_at", "category", "channel", name=op.f("pk_category_sends")),
    )
    _unsubscribe_lists()
    # Rows are claimed in the order of time, so an index of a few pages finds those of a day, and costs no insert.
    op.create_index(
        op.f("ix_delivery_logs_claimed_at"), "delivery_logs", ["claimed_at"], unique=False, postgresql_using="brin"
    )


def _unsubscribe_lists() -> None:
    """Several reasons for one address, and the address first; e-mail from now on without regard to case."""
    op.add_column(
        "unsubscribe_lists",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
    )
    op.add_column("unsubscribe_lists", sa.Column("source", sa.Text(), server_default="unknown", nullable=False))
    op.add_column("unsubscribe_lists", sa.Column("note", sa.Text(), nullable=True))
    op.drop_constraint(op.f("pk_unsubscribe_lists"), "unsubscribe_lists", type_="primary")
    op.execute(
        """
        UPDATE unsubscribe_lists SET reason = 'unsubscribed'
        WHERE reason NOT IN ('bounced', 'complained', 'manual', 'opted_out', 'unsubscribed')
        """
    )
    op.execute("UPDATE unsubscribe_lists SET address = lower(address) WHERE channel = 'email'")
    op.execute(
        """
        DELETE FROM unsubscribe_lists AS u USING unsubscribe_lists AS same
        WHERE (u.address, u.channel, u.category, u.reason) = (same.address, same.channel, same.category, same.reason)
          AND u.ctid > same.ctid
        """
    )
    op.create_primary_key(
        op.f("pk_unsubscribe_lists"), "unsubscribe_lists", ["address", "channel", "category", "reason"]
    )
    op.create_index(op.f("ix_unsubscribe_lists_id"), "unsubscribe_lists", ["id"], unique=True)
    op.create_index(op.f("ix_unsubscribe_lists_created_at_id"), "unsubscribe_lists", ["created_at", "id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_delivery_logs_claimed_at"), table_name="delivery_logs")
    op.drop_index(op.f("ix_unsubscribe_lists_created_at_id"), table_name="unsubscribe_lists")
    op.drop_index(op.f("ix_unsubscribe_lists_id"), table_name="unsubscribe_lists")
    op.drop_constraint(op.f("pk_unsubscribe_lists"), "unsubscribe_lists", type_="primary")
    op.execute(
        """
        DELETE FROM unsubscribe_lists AS u USING unsubscribe_lists AS same
        WHERE (u.address, u.channel, u.category) = (same.address, same.channel, same.category) AND u.ctid > same.ctid
        """
    )
    op.create_primary_key(op.f("pk_unsubscribe_lists"), "unsubscribe_lists", ["channel", "address", "category"])
    op.drop_column("unsubscribe_lists", "note")
    op.drop_column("unsubscribe_lists", "source")
    op.drop_column("unsubscribe_lists", "id")
    op.drop_table("category_sends")
    op.drop_table("category_pauses")
    op.drop_table("bounce_records")
