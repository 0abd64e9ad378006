"""Addresses that asked not to be written to."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class Unsubscribe(Table):
    """An address that wants nothing of a category, or nothing at all (category '')."""

    __tablename__ = "unsubscribe_lists"

    channel: Mapped[str] = mapped_column(primary_key=True)
    address: Mapped[str] = mapped_column(primary_key=True)
    category: Mapped[str] = mapped_column(primary_key=True, default="", server_default="")
    reason: Mapped[str]
    created_at: Mapped[datetime]
