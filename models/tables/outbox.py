"""Records that wait for Kafka."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Identity, Index
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class QueuedMessage(Table):
    """The outbox: a record that was acknowledged to its sender while Kafka was away. Deleted after acks=all."""

    __tablename__ = "message_queue"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    topic: Mapped[str]
    key: Mapped[bytes]
    value: Mapped[bytes]
    #: JSON object of text headers.
    headers: Mapped[dict[str, str]]
    created_at: Mapped[datetime]


class NotificationSchedule(Table):
    """A record that is due more than an hour from now; it goes to its topic when due."""

    __tablename__ = "notification_schedules"
    __table_args__ = (Index(None, "due_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    due_at: Mapped[datetime]
    topic: Mapped[str]
    key: Mapped[bytes]
    value: Mapped[bytes]
    headers: Mapped[dict[str, str]]
    created_at: Mapped[datetime]
