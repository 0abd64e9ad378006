"""One row per attempt: the claim before the provider call, and its outcome after."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class DeliveryLog(Table):
    """An attempt. Without `outcome` it is somebody's until `lease_until`; with one it is never called again."""

    __tablename__ = "delivery_logs"
    __table_args__ = (
        Index(None, "claimed_at", postgresql_using="brin"),
        Index(None, "provider_message_id", postgresql_where=text("provider_message_id IS NOT NULL")),
        {"postgresql_with": {"fillfactor": 80}},
    )

    delivery_id: Mapped[UUID] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    attempt: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    claimed_at: Mapped[datetime]
    lease_until: Mapped[datetime]
    #: The record that claimed it. Another record of the same attempt is a copy, and causes nothing of its own.
    source_partition: Mapped[int]
    source_offset: Mapped[int] = mapped_column(BigInteger)
    #: How often a lease ran out without outcome and another worker took the attempt over.
    takeovers: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    outcome: Mapped[str | None]
    provider: Mapped[str | None]
    provider_message_id: Mapped[str | None]
    reason: Mapped[str | None]
    #: When the next attempt is due, decided once with the outcome.
    retry_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    #: Of a push message: which of its devices the next attempt is for, one bit each; and how many took it.
    remaining_devices: Mapped[int | None] = mapped_column(BigInteger)
    reached_devices: Mapped[int | None] = mapped_column(SmallInteger)
