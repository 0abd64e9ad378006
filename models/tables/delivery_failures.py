"""The index of the dead letters: one row per failed record."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class DeliveryFailure(Table):
    """Where a dead letter came from, why it is one, and where it lies (`id` is `<partition>-<offset>` of the DLQ)."""

    __tablename__ = "delivery_failures"
    __table_args__ = (
        UniqueConstraint("source_topic", "source_partition", "source_offset"),
        Index(None, "failed_at", "id"),
        Index(None, "notification_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    source_topic: Mapped[str]
    source_partition: Mapped[int]
    source_offset: Mapped[int] = mapped_column(BigInteger)
    stage: Mapped[str]
    error_class: Mapped[str]
    error_reason: Mapped[str]
    notification_id: Mapped[UUID | None]
    channel: Mapped[str | None]
    attempts: Mapped[int]
    failed_at: Mapped[datetime]
