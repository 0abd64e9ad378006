"""Who did what that others may ask about: content that was shown or exported, dead letters that were replayed."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Index, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class AuditEntry(Table):
    """An act of an operator. `details` holds ids and filters, never content."""

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "at", "id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    who: Mapped[str]
    action: Mapped[str]
    reason: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
