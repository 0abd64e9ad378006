"""One row per request."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class Notification(Table):
    """A request and where it stands. A row without fingerprint is a cancellation that came before the request."""

    __tablename__ = "notifications"
    __table_args__ = (
        Index(None, "user_id", "created_at", "id"),
        Index(None, "created_at", "id"),
        # Every row is updated twice: both find room on its page, so no index is touched (HOT).
        {"postgresql_with": {"fillfactor": 50}},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[str]
    client: Mapped[str]
    fingerprint: Mapped[bytes | None]
    category: Mapped[str]
    priority: Mapped[str]
    status: Mapped[str]
    #: Rank of the status, written with it (`models.status`).
    rank: Mapped[int] = mapped_column(SmallInteger)
    generation: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    reason: Mapped[str | None]
    extra: Mapped[dict[str, str]] = mapped_column("metadata", server_default="{}")
    send_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
