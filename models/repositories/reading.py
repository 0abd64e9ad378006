"""Reading notifications, their deliveries and their attempts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.enums import Channel, EventKind, Outcome, Priority, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredNotification:
    """A notification's row. `user_id` is empty for a cancellation that came before its request."""

    id: UUID
    user_id: str
    status: Status
    category: str
    priority: Priority
    reason: str | None
    metadata: dict[str, str]
    send_at: datetime | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDelivery:
    """A delivery's row."""

    delivery_id: UUID
    channel: Channel
    status: Status
    generation: int
    reason: str | None
    provider: str | None
    provider_message_id: str | None
    attempts: int
    ambiguous: bool
    #: Of an SMS.
    segments: int | None = None
    created_at: datetime
    updated_at: datetime
    #: Whether an attempt is claimed, has no outcome, and its lease still runs.
    in_flight: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAttempt:
    """A row of the attempts' log."""

    delivery_id: UUID
    generation: int
    attempt: int
    claimed_at: datetime
    takeovers: int
    outcome: Outcome | None
    provider: str | None
    reason: str | None
    retry_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """What a provider told of a delivery."""

    delivery_id: UUID
    kind: EventKind
    provider: str
    occurred_at: datetime
    is_permanent: bool
    reason: str | None
    generation: int | None
    attempt: int | None


_FIELDS = """
    n.id, n.user_id, n.status, n.category, n.priority, n.reason, n.metadata, n.send_at, n.expires_at,
    n.created_at, n.updated_at
"""

_ONE = text(f"SELECT {_FIELDS} FROM notifications AS n WHERE n.id = :id")  # noqa: S608  only names from this file

_DELIVERIES = text(
    """
    SELECT d.delivery_id, d.channel, d.status, d.generation, d.reason, d.provider, d.provider_message_id,
           d.attempts, d.ambiguous, d.segments, d.created_at, d.updated_at,
           EXISTS (
               SELECT FROM delivery_logs AS l
               WHERE l.delivery_id = d.delivery_id AND l.outcome IS NULL AND l.lease_until > now()
           ) AS in_flight
    FROM notification_deliveries AS d WHERE d.notification_id = :id ORDER BY d.created_at, d.channel
    """
)

_ATTEMPTS = text(
    """
    SELECT l.delivery_id, l.generation, l.attempt, l.claimed_at, l.takeovers, l.outcome, l.provider, l.reason,
           l.retry_at, l.finished_at
    FROM delivery_logs AS l JOIN notification_deliveries AS d USING (delivery_id)
    WHERE d.notification_id = :id
    ORDER BY l.claimed_at, l.delivery_id, l.generation, l.attempt LIMIT 1000
    """
)

_EVENTS = text(
    """
    SELECT delivery_id, kind, provider, occurred_at, is_permanent, reason, generation, attempt
    FROM provider_events WHERE notification_id = :id
    ORDER BY occurred_at, received_at, event_id LIMIT 1000
    """
)

_FILTERS = {
    "user_id": "n.user_id = :user_id",
    "status": "n.status = :status",
    "category": "n.category = :category",
    "since": "n.created_at >= :since",
    "channel": """EXISTS (
        SELECT FROM notification_deliveries AS d WHERE d.notification_id = n.id AND d.channel = :channel
    )""",
    "before": "(n.created_at, n.id) < (:before, :before_id)",
}


async def notification(connection: AsyncConnection, notification_id: UUID) -> StoredNotification | None:
    """One notification."""
    row = (await connection.execute(_ONE, {"id": notification_id})).one_or_none()
    return None if row is None else _notification(row)


async def deliveries(connection: AsyncConnection, notification_id: UUID) -> list[StoredDelivery]:
    """Its deliveries."""
    rows = await connection.execute(_DELIVERIES, {"id": notification_id})
    return [
        StoredDelivery(**(dict(row._mapping) | {"channel": Channel(row.channel), "status": Status(row.status)}))
        for row in rows
    ]


async def attempts(connection: AsyncConnection, notification_id: UUID) -> list[StoredAttempt]:
    """The attempts of all its deliveries, the oldest first."""
    rows = await connection.execute(_ATTEMPTS, {"id": notification_id})
    return [
        StoredAttempt(**(dict(row._mapping) | {"outcome": None if row.outcome is None else Outcome(row.outcome)}))
        for row in rows
    ]


async def events(connection: AsyncConnection, notification_id: UUID) -> list[StoredEvent]:
    """What providers told of its deliveries, the oldest first."""
    rows = await connection.execute(_EVENTS, {"id": notification_id})
    return [StoredEvent(**(dict(row._mapping) | {"kind": EventKind(row.kind)})) for row in rows]


async def page(
    connection: AsyncConnection,
    *,
    user_id: str | None = None,
    status: Status | None = None,
    channel: Channel | None = None,
    category: str | None = None,
    since: datetime | None = None,
    before: tuple[datetime, UUID] | None = None,
    limit: int,
) -> list[StoredNotification]:
    """Notifications that fit all given filters, the newest first."""
    moment, tie = before if before is not None else (None, None)
    values: dict[str, Any] = {
        "user_id": user_id,
        "status": status,
        "channel": channel,
        "category": category,
        "since": since,
        "before": moment,
    }
    asked = {name: value for name, value in values.items() if value is not None}
    conditions = " AND ".join(_FILTERS[name] for name in asked) or "true"
    statement = text(
        f"SELECT {_FIELDS} FROM notifications AS n WHERE {conditions} "  # noqa: S608  only texts from this file
        "ORDER BY n.created_at DESC, n.id DESC LIMIT :limit"
    )
    extra = {"limit": limit} if tie is None else {"limit": limit, "before_id": tie}
    return [_notification(row) for row in await connection.execute(statement, asked | extra)]


def _notification(row: Any) -> StoredNotification:
    return StoredNotification(
        **(dict(row._mapping) | {"status": Status(row.status), "priority": Priority(row.priority)})
    )
