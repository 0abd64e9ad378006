"""One row per notification and channel."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class NotificationDelivery(Table):
    """A notification on one channel and where it stands."""

    __tablename__ = "notification_deliveries"
    __table_args__ = (
        Index(None, "notification_id"),
        # Every row is updated twice: both find room on its page, so no index is touched (HOT).
        {"postgresql_with": {"fillfactor": 50}},
    )

    delivery_id: Mapped[UUID] = mapped_column(primary_key=True)
    notification_id: Mapped[UUID]
    channel: Mapped[str]
    status: Mapped[str]
    rank: Mapped[int] = mapped_column(SmallInteger)
    generation: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    reason: Mapped[str | None]
    provider: Mapped[str | None]
    provider_message_id: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    #: Whether some attempt's outcome is unknown, so that the person may have got it twice.
    ambiguous: Mapped[bool] = mapped_column(default=False, server_default="false")
    #: What an SMS takes and is charged for; NULL on other channels.
    segments: Mapped[int | None] = mapped_column(SmallInteger)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
