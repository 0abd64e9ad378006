"""Categories: what preferences and defaults hang on."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class NotificationCategory(Table):
    """A kind of notification. Opt-outs don't hold for a transactional one."""

    __tablename__ = "notification_categories"

    key: Mapped[str] = mapped_column(primary_key=True)
    transactional: Mapped[bool]
    default_channels: Mapped[list[str]]
    priority: Mapped[str | None]
    quiet_hours: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
