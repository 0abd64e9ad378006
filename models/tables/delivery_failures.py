"""The index of the dead letters: one row per failed record."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Computed, Index, SmallInteger, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class DeliveryFailure(Table):
    """Where a dead letter came from, why it is one, and where it lies (`id` is `<partition>-<offset>` of the DLQ)."""

    __tablename__ = "delivery_failures"
    __table_args__ = (
        UniqueConstraint("source_topic", "source_partition", "source_offset"),
        Index(None, "failed_at", "id"),
        Index(None, "notification_id"),
        Index(None, "dlq_partition", "dlq_offset"),
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
    #: How often what failed had been replayed before.
    generation: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    #: By the database's clock: a replay takes no letter that came after it was asked for.
    indexed_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    #: A letter is replayed once: by that replay, when Kafka had its record.
    replayed_at: Mapped[datetime | None]
    replay_id: Mapped[UUID | None]
    #: Why it can't be replayed, once that was found out.
    unreplayable: Mapped[str | None]
    dlq_partition: Mapped[int] = mapped_column(Computed("split_part(id, '-', 1)::integer", persisted=True))
    dlq_offset: Mapped[int] = mapped_column(BigInteger, Computed("split_part(id, '-', 2)::bigint", persisted=True))
