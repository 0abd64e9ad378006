"""How much of a category's e-mail comes back, and whose bulk is held back for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.enums import Channel, Outcome
from models.suppressions import BounceKind

#: Counts are kept for longer than the longest window.
_KEPT = timedelta(days=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class BounceRate:
    """A category's e-mails of the window, those since its last resumption."""

    category: str
    #: A provider took them, or said that nobody is there.
    sent: int
    #: Messages that came back for good.
    bounced: int
    soft: int
    is_paused: bool

    @property
    def rate(self) -> float:
        """The share that came back, 0 to 1. One told later than it was counted as sent can't make it more."""
        return min(1.0, self.bounced / self.sent) if self.sent else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A category whose bulk is held back on one channel."""

    category: str
    channel: Channel
    paused_at: datetime
    sent: int
    bounced: int


_TURN = text(
    """
    SELECT pg_try_advisory_xact_lock(727006) AS is_ours, clock_timestamp() AS now,
           (SELECT max(counted_at) FROM category_sends) AS counted_at
    """
)

# Rows are claimed in the order of time, which the index over `claimed_at` makes cheap to find.
_COUNT = text(
    f"""
    INSERT INTO category_sends (counted_at, category, channel, sent)
    SELECT :until, n.category, d.channel, count(*)
    FROM delivery_logs AS l
    JOIN notification_deliveries AS d ON d.delivery_id = l.delivery_id
    JOIN notifications AS n ON n.id = d.notification_id
    WHERE l.claimed_at > :since AND l.claimed_at <= :until
      AND l.outcome IN ('{Outcome.SENT}', '{Outcome.TARGET_DEAD}')
    GROUP BY n.category, d.channel
    ON CONFLICT DO NOTHING
    """  # noqa: S608  only names of ours
)
_PRUNE = text("DELETE FROM category_sends WHERE counted_at < :kept_since")

_RATES = text(
    f"""
    WITH begins AS (
        SELECT category, resumed_at, resumed_at IS NULL AS is_paused FROM category_pauses
        WHERE channel = '{Channel.EMAIL}'
    ), came_back AS (
        SELECT b.category,
               count(DISTINCT COALESCE(CAST(b.delivery_id AS text), b.event_id))
                   FILTER (WHERE b.kind = '{BounceKind.HARD}') AS bounced,
               count(DISTINCT COALESCE(CAST(b.delivery_id AS text), b.event_id))
                   FILTER (WHERE b.kind = '{BounceKind.SOFT}') AS soft
        FROM bounce_records AS b LEFT JOIN begins ON begins.category = b.category
        WHERE b.occurred_at > :since AND b.channel = '{Channel.EMAIL}' AND b.category IS NOT NULL
          AND b.occurred_at > COALESCE(begins.resumed_at, '-infinity')
        GROUP BY b.category
    ), went AS (
        SELECT s.category, sum(s.sent) AS sent
        FROM category_sends AS s LEFT JOIN begins ON begins.category = s.category
        WHERE s.counted_at > :since AND s.channel = '{Channel.EMAIL}'
          AND s.counted_at > COALESCE(begins.resumed_at, '-infinity')
        GROUP BY s.category
    )
    SELECT category, COALESCE(went.sent, 0) AS sent, COALESCE(came_back.bounced, 0) AS bounced,
           COALESCE(came_back.soft, 0) AS soft, COALESCE(begins.is_paused, false) AS is_paused
    FROM went FULL JOIN came_back USING (category) FULL JOIN begins USING (category)
    WHERE (went.sent IS NOT NULL OR came_back.category IS NOT NULL OR begins.is_paused)
      AND (CAST(:after AS text) IS NULL OR category > :after)
    ORDER BY category LIMIT :limit
    """  # noqa: S608
)

_PAUSE = text(
    """
    INSERT INTO category_pauses AS p (category, channel, paused_at, sent, bounced)
    VALUES (:category, :channel, clock_timestamp(), :sent, :bounced)
    ON CONFLICT (category, channel) DO UPDATE
    SET paused_at = EXCLUDED.paused_at, sent = EXCLUDED.sent, bounced = EXCLUDED.bounced,
        resumed_at = NULL, resumed_by = NULL
    WHERE p.resumed_at IS NOT NULL
    RETURNING category
    """
)
_FIELDS = "category, channel, paused_at, sent, bounced"
_RESUME = text(
    f"""
    UPDATE category_pauses SET resumed_at = clock_timestamp(), resumed_by = :who
    WHERE category = :category AND resumed_at IS NULL RETURNING {_FIELDS}
    """  # noqa: S608
)
_PAUSES = text(
    f"SELECT {_FIELDS} FROM category_pauses WHERE resumed_at IS NULL ORDER BY category, channel"  # noqa: S608
)


async def count(connection: AsyncConnection, *, every: timedelta, settled: timedelta, window: timedelta) -> bool:
    """Counts what was sent since the last time, for one process of the cluster; False while it is another's turn.

    Attempts younger than `settled` wait for the next time: they may have no outcome yet.
    """
    turn = (await connection.execute(_TURN)).one()
    until = turn.now - settled
    since = until - window if turn.counted_at is None else turn.counted_at
    # A little early is on time: who counted last should go on, and timers are not that exact.
    if not turn.is_ours or until - since < every * 0.9:
        return False
    await connection.execute(_COUNT, {"since": since, "until": until})
    await connection.execute(_PRUNE, {"kept_since": turn.now - _KEPT})
    return True


async def rates(
    connection: AsyncConnection, *, window: timedelta, after: str | None = None, limit: int = 10_000
) -> list[BounceRate]:
    """Of all categories that sent or got back anything within the window before now, or are held back, by category."""
    now = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
    rows = await connection.execute(_RATES, {"since": now - window, "after": after, "limit": limit})
    return [BounceRate(**row._mapping) for row in rows]


async def pause(connection: AsyncConnection, found: BounceRate) -> bool:
    """Holds a category's bulk e-mail back; False where it is already."""
    values = {
        "category": found.category,
        "channel": str(Channel.EMAIL),
        "sent": found.sent,
        "bounced": found.bounced,
    }
    return (await connection.execute(_PAUSE, values)).one_or_none() is not None


async def resume(connection: AsyncConnection, category: str, *, who: str) -> list[Pause]:
    """Lets a category's bulk go again; returns what had held it back."""
    return [_pause(row) for row in await connection.execute(_RESUME, {"category": category, "who": who})]


async def pauses(connection: AsyncConnection) -> dict[str, list[Pause]]:
    """All that is held back now, by category; there are few."""
    found: dict[str, list[Pause]] = {}
    for row in await connection.execute(_PAUSES):
        found.setdefault(row.category, []).append(_pause(row))
    return found


def _pause(row: Any) -> Pause:
    return Pause(
        category=row.category,
        channel=Channel(row.channel),
        paused_at=row.paused_at,
        sent=row.sent,
        bounced=row.bounced,
    )
