"""What the service tells others: the values of `notification.sent`, `notification.failed`, `notification.status`.

Tuples, as a notification takes four of them. What is not known of an event is left out of its value.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from models.enums import Channel, Status
from models.ids import rfc3339


class StatusEvent(NamedTuple):
    """A change of status. With `channel` it is about that delivery, without about the notification."""

    event_id: UUID
    notification_id: UUID
    user_id: str
    status: Status
    timestamp: datetime
    channel: Channel | None = None
    reason: str | None = None
    provider: str | None = None

    def value(self) -> bytes:
        """The value of its Kafka record."""
        told: dict[str, Any] = {
            "event_id": self.event_id,
            "notification_id": self.notification_id,
            "user_id": self.user_id,
            "status": self.status,
            "timestamp": rfc3339(self.timestamp),
        }
        if self.channel is not None:
            told["channel"] = self.channel
        if self.reason is not None:
            told["reason"] = self.reason
        if self.provider is not None:
            told["provider"] = self.provider
        return orjson.dumps(told)


class SentEvent(NamedTuple):
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
        told: dict[str, Any] = {
            "event_id": self.event_id,
            "notification_id": self.notification_id,
            "user_id": self.user_id,
            "channel": self.channel,
            "timestamp": rfc3339(self.timestamp),
            "provider": self.provider,
            "category": self.category,
            "attempt": self.attempt,
        }
        if self.provider_message_id is not None:
            told["provider_message_id"] = self.provider_message_id
        if self.metadata:
            told["metadata"] = self.metadata
        return orjson.dumps(told)


class FailedEvent(NamedTuple):
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
        told: dict[str, Any] = {
            "event_id": self.event_id,
            "notification_id": self.notification_id,
            "timestamp": rfc3339(self.timestamp),
            "error": self.error,
            "reason": self.error,
            "retry_count": self.retry_count,
        }
        if self.user_id is not None:
            told["user_id"] = self.user_id
        if self.channel is not None:
            told["channel"] = self.channel
        if self.metadata:
            told["metadata"] = self.metadata
        return orjson.dumps(told)
