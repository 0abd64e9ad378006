"""devices of a push message"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("delivery_logs", sa.Column("remaining_devices", sa.BigInteger(), nullable=True))
    op.add_column("delivery_logs", sa.Column("reached_devices", sa.SmallInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("delivery_logs", "reached_devices")
    op.drop_column("delivery_logs", "remaining_devices")
