"""Identifiers. All are deterministic where a repeat must find the same row (CONTRACT section 3)."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat
from uuid_utils.compat import uuid5

from models.enums import Channel

#: Namespaces of our own, so that one kind of name never collides with another.
_CLIENTS = UUID("5a1f6c1e-6f0e-5d3f-9a53-0f4a0d6f1c01")
_RECORDS = UUID("5a1f6c1e-6f0e-5d3f-9a53-0f4a0d6f1c02")


def from_idempotency_key(client: str, key: str) -> UUID:
    """The id of a request that came with an idempotency key; the same for every repeat by the same client."""
    return uuid5(_CLIENTS, f"{len(client)}:{client}:{key}")


def from_record(cluster_id: str, topic: str, partition: int, offset: int, timestamp_ms: int) -> UUID:
    """The id of a Kafka request that brought none; the same however often the record is read."""
    return uuid5(_RECORDS, f"{cluster_id}/{topic}/{partition}/{offset}/{timestamp_ms}")


def fresh() -> UUID:
    """A UUIDv7: sorts by time, so rows that come together lie together."""
    return uuid_utils.compat.uuid7()


def delivery_id(notification_id: UUID, channel: Channel) -> UUID:
    """The id of a notification on one channel."""
    return uuid5(notification_id, channel.value)


def event_id(subject: UUID, generation: int, attempt: int, status: str) -> UUID:
    """The id of an event about a notification or a delivery; consumers dedupe on it."""
    return uuid5(subject, f"{generation}/{attempt}/{status}")


def rfc3339(value: datetime) -> str:
    """UTC with milliseconds and a Z: `2026-01-01T12:00:00.000Z`."""
    if value.tzinfo is not UTC:
        value = value.astimezone(UTC)
    return value.isoformat(timespec="milliseconds")[:-6] + "Z"
