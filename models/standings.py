"""Where deliveries stand when a provider tells something of them, and what becomes of that."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from models.enums import Channel, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A delivery as its row, and its notification's, have it."""

    delivery_id: UUID
    notification_id: UUID
    user_id: str
    channel: Channel
    category: str
    metadata: dict[str, str]
    status: Status
    rank: int
    generation: int
    attempts: int
    provider: str | None
    provider_message_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The delivery that an event is about, and the attempt where that is known."""

    delivery_id: UUID
    notification_id: UUID
    generation: int | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A delivery's new status by an event, with all that is told of it: the same whenever it is told."""

    delivery_id: UUID
    notification_id: UUID
    user_id: str
    channel: Channel
    metadata: dict[str, str]
    status: Status
    generation: int
    attempt: int
    provider: str
    reason: str | None
    at: datetime
