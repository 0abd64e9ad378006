"""In-app messages."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class InboxItem(Table):
    """One in-app message; its id is the delivery's."""

    __tablename__ = "inbox"
    __table_args__ = (
        Index(None, "user_id", "created_at", "id"),
        Index("ix_inbox_unread", "user_id", postgresql_where=text("read_at IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    notification_id: Mapped[UUID]
    user_id: Mapped[str]
    category: Mapped[str]
    title: Mapped[str]
    body: Mapped[str]
    action_url: Mapped[str | None]
    image_url: Mapped[str | None]
    created_at: Mapped[datetime]
    read_at: Mapped[datetime | None]
