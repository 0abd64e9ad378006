"""What providers told."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class StoredProviderEvent(Table):
    """One event, once however often it is told, with the delivery it was matched to and what it did to that.

    Without `delivery_id` it matches nothing yet; `retry_at` says when it is looked at again, and is empty when nothing
    is left to do.
    """

    __tablename__ = "provider_events"
    __table_args__ = (
        Index(None, "notification_id", postgresql_where=text("notification_id IS NOT NULL")),
        Index(None, "received_at"),
        Index(None, "retry_at", postgresql_where=text("retry_at IS NOT NULL")),
    )

    event_id: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str]
    channel: Mapped[str]
    kind: Mapped[str]
    occurred_at: Mapped[datetime]
    received_at: Mapped[datetime]
    #: The record that brought it. Another record of the same event is a repeat, and causes nothing of its own.
    source_partition: Mapped[int]
    source_offset: Mapped[int] = mapped_column(BigInteger)
    delivery_id: Mapped[UUID | None]
    notification_id: Mapped[UUID | None]
    generation: Mapped[int | None] = mapped_column(SmallInteger)
    attempt: Mapped[int | None] = mapped_column(SmallInteger)
    provider_message_id: Mapped[str | None]
    reason: Mapped[str | None]
    is_permanent: Mapped[bool]
    #: The status that it gave its delivery, and that was told; none for what changed nothing.
    status: Mapped[str | None]
    #: What else the vendor said, without content and addresses.
    raw: Mapped[dict[str, Any]]
    #: The event as it came, address and all, for as long as it waits for its delivery, and no longer.
    pending: Mapped[dict[str, Any] | None]
    looks: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    retry_at: Mapped[datetime | None]
    give_up_at: Mapped[datetime | None]
