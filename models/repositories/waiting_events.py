"""Providers' events that wait for their delivery: taken when they are due, by any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.repositories.arrays import given
from models.repositories.provider_events import EFFECT, FIRST_WAIT, effect_of, told_as
from models.standings import Effect, Match

#: Each wait is twice as long as the one before, up to this.
LONGEST_WAIT = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingEvent:
    """A row that is due for a look, locked by this transaction. With `effect` it only has to be told."""

    event_id: str
    provider: str
    pending: bytes | None
    looks: int
    is_over: bool
    effect: Effect | None


_TAKE_DUE = text(
    f"""
    WITH due AS MATERIALIZED (
        SELECT * FROM provider_events
        WHERE retry_at <= now() ORDER BY retry_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    SELECT {EFFECT}, e.pending, e.looks, e.give_up_at <= now() AS is_over
    FROM due AS e LEFT JOIN notifications AS n ON n.id = e.notification_id
    """  # noqa: S608
)


async def take_due(connection: AsyncConnection, limit: int) -> list[WaitingEvent]:
    """Locks events whose next look is due; those that another process looks at are left out."""
    return [
        WaitingEvent(
            event_id=row.event_id,
            provider=row.provider,
            pending=None if row.pending is None else orjson.dumps(row.pending),
            looks=row.looks,
            is_over=bool(row.is_over),
            effect=effect_of(row),
        )
        for row in await connection.execute(_TAKE_DUE, {"limit": limit})
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A waiting event that has found its delivery."""

    event_id: str
    match: Match
    effect: Effect | None


_FOUND = {
    "event_id": "text",
    "delivery_id": "uuid",
    "notification_id": "uuid",
    "generation": "smallint",
    "attempt": "smallint",
    "status": "text",
}
# What has something to tell comes up again until it was told.
_RESOLVE = text(
    f"""
    UPDATE provider_events AS e
    SET delivery_id = g.delivery_id, notification_id = g.notification_id, generation = g.generation,
        attempt = g.attempt, status = g.status, pending = NULL, give_up_at = NULL,
        retry_at = CASE WHEN g.status IS NOT NULL THEN now() + CAST(:tell_again_after AS interval) END
    FROM {given("g", _FOUND)}
    WHERE e.event_id = g.event_id
    """  # noqa: S608
)
_TELL_AGAIN_AFTER = timedelta(seconds=30)


async def resolve(connection: AsyncConnection, found: Sequence[Found]) -> None:
    """Writes the deliveries of events that waited, and forgets what waited with them."""
    columns: dict[str, list[Any]] = {name: [] for name in _FOUND}
    for one in found:
        ids_of = {"delivery_id": one.match.delivery_id, "notification_id": one.match.notification_id}
        for name, value in {"event_id": one.event_id, **ids_of, **told_as(one.match, one.effect)}.items():
            columns[name].append(value)
    if found:
        await connection.execute(_RESOLVE, {**columns, "tell_again_after": _TELL_AGAIN_AFTER})


_POSTPONED = {"event_id": "text", "wait": "interval"}
_POSTPONE = text(
    f"""
    UPDATE provider_events AS e SET looks = e.looks + 1, retry_at = least(now() + g.wait, e.give_up_at)
    FROM {given("g", _POSTPONED)} WHERE e.event_id = g.event_id
    """  # noqa: S608
)


async def postpone(connection: AsyncConnection, waiting: Sequence[WaitingEvent]) -> None:
    """Looks at these again after a wait that doubles."""
    columns = {
        "event_id": [one.event_id for one in waiting],
        "wait": [wait_after(one.looks + 1) for one in waiting],
    }
    if waiting:
        await connection.execute(_POSTPONE, columns)


def wait_after(looks: int) -> timedelta:
    """How long after so many looks the next one is due."""
    doubled: timedelta = FIRST_WAIT * 2 ** min(looks, 20)
    return min(doubled, LONGEST_WAIT)


_CLOSE = text(
    "UPDATE provider_events SET pending = NULL, retry_at = NULL, give_up_at = NULL WHERE event_id = ANY(:event_ids)"
)


async def close(connection: AsyncConnection, event_ids: Sequence[str]) -> None:
    """Nothing is left to do for these: they were told, or are given up. What waited with them is forgotten."""
    if event_ids:
        await connection.execute(_CLOSE, {"event_ids": sorted(event_ids)})


@dataclass(frozen=True, slots=True)
class UnmatchedRows:
    """What waits for its delivery: how many events, and since when the oldest."""

    waiting: int
    oldest_at: datetime | None


_MOST_COUNTED = 100_000
_UNMATCHED = text(
    """
    SELECT count(*) AS waiting, min(received_at) AS oldest_at FROM (
        SELECT received_at FROM provider_events WHERE retry_at IS NOT NULL ORDER BY retry_at LIMIT :most
    ) AS bounded
    """
)


async def unmatched(connection: AsyncConnection) -> UnmatchedRows:
    """How much waits, counted up to a bound so that asking stays cheap."""
    row = (await connection.execute(_UNMATCHED, {"most": _MOST_COUNTED})).one()
    return UnmatchedRows(row.waiting, row.oldest_at)
