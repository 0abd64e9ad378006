"""What the lanes learn about deliveries, as values that repositories write.

Tuples where a notification takes some of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from models.enums import Outcome, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadDevice:
    """A push token that its vendor doesn't know any more."""

    platform: str
    token: str
    #: Since when, by the vendor's word: one that was registered later is alive. None: it didn't say.
    dead_since: datetime | None = None


class Attempt(NamedTuple):
    """An attempt with its outcome, as `delivery_logs` keeps it."""

    delivery_id: UUID
    generation: int
    attempt: int
    outcome: Outcome
    provider: str | None
    provider_message_id: str | None
    reason: str | None
    #: None when no further attempt follows.
    retry_at: datetime | None
    finished_at: datetime
    #: How often its lease ran out first.
    takeovers: int = 0
    #: Of a push message: the devices that the next attempt is for, one bit for each place in `Delivery.devices`.
    remaining_devices: int | None = None
    #: Of a push message: how many devices took it in this attempt.
    reached_devices: int | None = None
    #: Devices that are no more, to be forgotten with the outcome. Not stored.
    dead_devices: tuple[DeadDevice, ...] = ()


class Change(NamedTuple):
    """A delivery's new status, for the one function that writes it."""

    delivery_id: UUID
    notification_id: UUID
    status: Status
    rank: int
    generation: int
    reason: str | None = None
    provider: str | None = None
    provider_message_id: str | None = None
    attempts: int = 0
    ambiguous: bool = False
