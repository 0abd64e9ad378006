"""room on a row's page for its two updates"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TABLES = ("notifications", "notification_deliveries")


def upgrade() -> None:
    _fill(50)


def downgrade() -> None:
    _fill(80)


def _fill(percent: int) -> None:
    """New pages only; those that are full already fill their gaps as rows go."""
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} SET (fillfactor = {percent})")
