"""What the service tells others: the values of `notification.sent`, `notification.failed`, `notification.status`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson

from models.enums import Channel, Status
from models.ids import rfc3339


def _encoded(fields: dict[str, object]) -> bytes:
    return orjson.dumps({name: value for name, value in fields.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusEvent:
    """A change of status. With `channel` it is about that delivery, without about the notification."""

    event_id: UUID
    notification_id: UUID
    user_id: str
    channel: Channel | None = None
    status: Status
    timestamp: datetime
    reason: str | None = None
    provider: str | None = None

    def value(self) -> bytes:
        """The value of its Kafka record."""
        return _encoded(
            {
                "event_id": self.event_id,
                "notification_id": self.notification_id,
                "user_id": self.user_id,
                "channel": self.channel,
                "status": self.status,
                "timestamp": rfc3339(self.timestamp),
                "reason": self.reason,
                "provider": self.provider,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SentEvent:
    """A provider took a delivery."""

    event_id: UUID
    notification_id: UUID
    user_id: str
    channel: Channel
    timestamp: datetime
    provider: str
    provider_message_id: str | None
    category: str
    attempt: int
    metadata: dict[str, str]

    def value(self) -> bytes:
        """The value of its Kafka record."""
        return _encoded(
            {
                "event_id": self.event_id,
                "notification_id": self.notification_id,
                "user_id": self.user_id,
                "channel": self.channel,
                "timestamp": rfc3339(self.timestamp),
                "provider": self.provider,
                "provider_message_id": self.provider_message_id,
                "category": self.category,
                "attempt": self.attempt,
                "metadata": self.metadata or None,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedEvent:
    """A notification or delivery ended failed; its record is in the dead letters."""

    event_id: UUID
    notification_id: UUID
    user_id: str | None
    channel: Channel | None
    timestamp: datetime
    error: str
    retry_count: int
    metadata: dict[str, str]

    def value(self) -> bytes:
        """The value of its Kafka record."""
        return _encoded(
            {
                "event_id": self.event_id,
                "notification_id": self.notification_id,
                "user_id": self.user_id,
                "channel": self.channel,
                "timestamp": rfc3339(self.timestamp),
                "error": self.error,
                "reason": self.error,
                "retry_count": self.retry_count,
                "metadata": self.metadata or None,
            }
        )
