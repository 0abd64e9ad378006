"""Cancelling: decided against the claims of the channel lanes, so that exactly one of the two wins.

A claim reads the notification's row FOR KEY SHARE in the statement that writes the attempt. The lock taken here, FOR
UPDATE, excludes that: after it every claim is either committed, so it is seen below, or it waits and will see the
cancellation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.changes import Change
from models.enums import Channel, Outcome, Status
from models.repositories import deliveries, notifications
from models.status import ENDED_RANK, RANK

#: Why a cancelled notification or delivery is.
REASON = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledDelivery:
    """A delivery that will not be sent."""

    delivery_id: UUID
    channel: Channel
    generation: int
    #: Attempts made before.
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """What asking for a cancellation came to."""

    too_late: bool = False
    #: Whether this very call changed anything.
    changed: bool = False
    #: Empty where the request has not come yet.
    user_id: str = ""
    generation: int = 0
    status: Status = Status.CANCELLED
    deliveries: tuple[CancelledDelivery, ...] = ()


_TOMBSTONE = text(
    f"""
    INSERT INTO notifications
        (id, user_id, client, fingerprint, category, priority, status, rank, reason, created_at, updated_at)
    VALUES (:id, '', :client, NULL, 'general', 'normal', '{Status.CANCELLED}', {RANK[Status.CANCELLED]}, :reason,
            now(), now())
    ON CONFLICT (id) DO NOTHING RETURNING id
    """  # noqa: S608  only names from this file
)

_LOCKED = text("SELECT user_id, status, rank, generation FROM notifications WHERE id = :id FOR UPDATE")

# `taken`: an attempt may be at its provider, or was, with an outcome that is or may be a message. What became of the
# attempts before a replay was known to whoever replayed.
_DELIVERIES = text(
    f"""
    SELECT d.delivery_id, d.channel, d.status, d.rank, d.generation, d.attempts, EXISTS (
        SELECT FROM delivery_logs AS l
        WHERE l.delivery_id = d.delivery_id
          AND (l.outcome IS NULL
               OR (l.generation = d.generation AND l.outcome IN ('{Outcome.SENT}', '{Outcome.AMBIGUOUS}')))
    ) AS taken
    FROM notification_deliveries AS d WHERE d.notification_id = :id ORDER BY d.delivery_id
    """  # noqa: S608
)


async def cancel(connection: AsyncConnection, notification_id: UUID, *, client: str) -> Cancellation:
    """Cancels what can still be cancelled: all of a notification, or nothing.

    Before its request has come, a tombstone makes sure that it will be dropped when it does. To be called first in its
    transaction.
    """
    values = {"id": notification_id, "client": client, "reason": REASON}
    if (await connection.execute(_TOMBSTONE, values)).one_or_none() is not None:
        return Cancellation(changed=True)
    row = (await connection.execute(_LOCKED, {"id": notification_id})).one()
    found = (await connection.execute(_DELIVERIES, {"id": notification_id})).all()
    if row.rank >= ENDED_RANK:
        done = row.status == Status.CANCELLED or any(one.status == Status.CANCELLED for one in found)
        return Cancellation(too_late=not done, user_id=row.user_id, status=Status(row.status))
    if any(one.taken for one in found):
        return Cancellation(too_late=True, user_id=row.user_id, status=Status(row.status))
    return await _cancelled(connection, notification_id, row, [one for one in found if one.rank < ENDED_RANK])


async def _cancelled(
    connection: AsyncConnection, notification_id: UUID, row: Any, still_open: Sequence[Any]
) -> Cancellation:
    changes = [
        Change(
            delivery_id=one.delivery_id,
            notification_id=notification_id,
            status=Status.CANCELLED,
            rank=RANK[Status.CANCELLED],
            generation=one.generation,
            reason=REASON,
            attempts=one.attempts,
        )
        for one in still_open
    ]
    await deliveries.advance(connection, changes)
    own = notifications.OwnChange(id=notification_id, status=Status.CANCELLED, generation=row.generation, reason=REASON)
    await notifications.advance(connection, [own])
    return Cancellation(
        changed=True,
        user_id=row.user_id,
        generation=row.generation,
        deliveries=tuple(
            CancelledDelivery(
                delivery_id=one.delivery_id,
                channel=Channel(one.channel),
                generation=one.generation,
                attempts=one.attempts,
            )
            for one in still_open
        ),
    )
