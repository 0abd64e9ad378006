"""What a person wants to get, and how."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class NotificationPreference(Table):
    """Holds only what the person chose: channels `{"sms": false}`, categories `{"billing": {"email": false}}`."""

    __tablename__ = "notification_preferences"

    user_id: Mapped[str] = mapped_column(primary_key=True)
    channels: Mapped[dict[str, Any]]
    categories: Mapped[dict[str, Any]]
    quiet_hours: Mapped[dict[str, Any] | None]
    updated_at: Mapped[datetime]
