"""segments of an SMS"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("notification_deliveries", sa.Column("segments", sa.SmallInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("notification_deliveries", "segments")
