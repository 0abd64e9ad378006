"""Messages that came back: `bounce_records`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.addresses import listed_as
from models.enums import Channel
from models.repositories.arrays import given
from models.suppressions import Bounce, BounceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBounce:
    """A message that came back."""

    id: UUID
    channel: Channel
    address: str
    kind: BounceKind
    reason: str | None
    category: str | None
    delivery_id: UUID | None
    occurred_at: datetime

    @property
    def created_at(self) -> datetime:
        """When it happened: lists run from new to old."""
        return self.occurred_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which bounces; None where it doesn't matter. `address` as the lists hold it."""

    channel: Channel | None = None
    category: str | None = None
    kind: BounceKind | None = None
    address: str | None = None
    delivery_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


_FIELDS = "id, channel, address, kind, reason, category, delivery_id, occurred_at"
_GIVEN = {
    "event_id": "text",
    "channel": "text",
    "address": "text",
    "kind": "text",
    "reason": "text",
    "category": "text",
    "delivery_id": "uuid",
    "occurred_at": "timestamptz",
}
_ADD = text(
    f"""
    INSERT INTO bounce_records ({", ".join(_GIVEN)})
    SELECT {", ".join(_GIVEN)} FROM {given("g", _GIVEN)} ORDER BY event_id
    ON CONFLICT (event_id) DO NOTHING
    RETURNING event_id
    """  # noqa: S608  only names from this file
)

# Messages, not events: one that is tried for two days and told of each time has come back once.
_TARGET = {"address": "text", "channel": "text", "since": "timestamptz"}
_SOFT = text(
    f"""
    SELECT g.channel, g.address, (
        SELECT count(DISTINCT COALESCE(CAST(b.delivery_id AS text), b.event_id)) FROM bounce_records AS b
        WHERE b.address = g.address AND b.channel = g.channel AND b.kind = 'soft' AND NOT b.is_over
          AND b.occurred_at >= g.since
    ) AS counted
    FROM {given("g", _TARGET)}
    """  # noqa: S608
)
# For each address by the index, whatever the planner thinks of a table that just filled: arrivals come by the thousand.
_LET_GO = text(
    f"""
    UPDATE bounce_records SET is_over = true WHERE event_id IN (
        SELECT b.event_id FROM {given("g", {"address": "text", "channel": "text"})}
        CROSS JOIN LATERAL (
            SELECT event_id FROM bounce_records
            WHERE address = g.address AND channel = g.channel AND kind = 'soft' AND NOT is_over OFFSET 0
        ) AS b
    )
    """  # noqa: S608
)


async def add(connection: AsyncConnection, bounces: Sequence[Bounce]) -> set[str]:
    """Stores bounces, each once; returns the event ids of those that are new."""
    columns = {
        "event_id": [bounce.event_id for bounce in bounces],
        "channel": [str(bounce.channel) for bounce in bounces],
        "address": [listed_as(bounce.channel, bounce.address) for bounce in bounces],
        "kind": [str(BounceKind.HARD if bounce.is_permanent else BounceKind.SOFT) for bounce in bounces],
        "reason": [bounce.reason for bounce in bounces],
        "category": [bounce.category for bounce in bounces],
        "delivery_id": [bounce.delivery_id for bounce in bounces],
        "occurred_at": [bounce.occurred_at for bounce in bounces],
    }
    return {row.event_id for row in await connection.execute(_ADD, columns)}


async def count_soft(
    connection: AsyncConnection, targets: Mapping[tuple[Channel, str], datetime]
) -> dict[tuple[Channel, str], int]:
    """How many messages in a row came back softly from addresses (as the lists hold them), each since its time."""
    columns = {
        "address": [address for _, address in targets],
        "channel": [str(channel) for channel, _ in targets],
        "since": list(targets.values()),
    }
    rows = await connection.execute(_SOFT, columns)
    return {(Channel(row.channel), row.address): row.counted for row in rows}


async def let_go(connection: AsyncConnection, targets: Sequence[tuple[Channel, str]]) -> None:
    """Soft bounces of these addresses count no more."""
    columns = {
        "address": [listed_as(channel, address) for channel, address in targets],
        "channel": [str(channel) for channel, _ in targets],
    }
    await connection.execute(_LET_GO, columns)


async def page(
    connection: AsyncConnection, wanted: Wanted, *, limit: int, before: tuple[datetime, UUID] | None
) -> list[StoredBounce]:
    """Bounces, the newest first."""
    values: dict[str, Any] = {
        name: str(value)
        for name in ("channel", "category", "kind", "address")
        if (value := getattr(wanted, name)) is not None
    }
    conditions = [f"{name} = :{name}" for name in values]
    bounds = {
        "delivery_id = :delivery_id": ("delivery_id", wanted.delivery_id),
        "occurred_at >= :since": ("since", wanted.since),
        "occurred_at < :until": ("until", wanted.until),
    }
    for condition, (name, value) in bounds.items():
        if value is not None:
            conditions.append(condition)
            values[name] = value
    if before is not None:
        conditions.append("(occurred_at, id) < (:before_at, :before_id)")
        values |= {"before_at": before[0], "before_id": before[1]}
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = f"SELECT {_FIELDS} FROM bounce_records {where} ORDER BY occurred_at DESC, id DESC LIMIT :limit"  # noqa: S608
    return [_bounce(row) for row in await connection.execute(text(statement), {**values, "limit": limit})]


def _bounce(row: Any) -> StoredBounce:
    return StoredBounce(
        id=row.id,
        channel=Channel(row.channel),
        address=row.address,
        kind=BounceKind(row.kind),
        reason=row.reason,
        category=row.category,
        delivery_id=row.delivery_id,
        occurred_at=row.occurred_at,
    )
