"""Notifications: taking requests in, and reading what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.enums import Status
from models.repositories.arrays import arrays, given
from models.status import ENDED_RANK, HANDED_ON_RANK, RANK


class NewNotification(NamedTuple):
    """A request as it is first stored."""

    id: UUID
    user_id: str
    client: str
    fingerprint: bytes
    category: str
    priority: str
    extra: str = "{}"  # JSON, ready for the database
    send_at: datetime | None = None
    expires_at: datetime | None = None


@dataclass(slots=True)  # not frozen: there is one for each request, and writing a frozen one takes thrice as long
class Known:
    """What the database says of a request's id."""

    id: UUID
    fingerprint: bytes | None
    status: Status
    rank: int
    generation: int
    created_at: datetime

    @property
    def is_handed_on(self) -> bool:
        """Whether a repeat has nothing left to do: its records are on their topics, or it ended."""
        return self.rank >= HANDED_ON_RANK

    @property
    def is_ended(self) -> bool:
        """Whether it reached an end (before or after sending)."""
        return self.rank >= ENDED_RANK


_COLUMNS = {
    "id": "uuid",
    "user_id": "text",
    "client": "text",
    "fingerprint": "bytea",
    "category": "text",
    "priority": "text",
    "extra": "text",
    "send_at": "timestamptz",
    "expires_at": "timestamptz",
}

_INSERT = text(
    f"""
    INSERT INTO notifications AS n
        (id, user_id, client, fingerprint, category, priority, metadata, send_at, expires_at,
         status, rank, generation, created_at, updated_at)
    SELECT id, user_id, client, fingerprint, category, priority, CAST(extra AS jsonb), send_at, expires_at,
           '{Status.ACCEPTED}', {RANK[Status.ACCEPTED]}, 0, now(), now()
    FROM {given("g", _COLUMNS)}
    ORDER BY id
    ON CONFLICT (id) DO NOTHING
    RETURNING id, created_at
    """  # noqa: S608  only names from this file
)

_KNOWN = text("SELECT id, fingerprint, status, rank, generation, created_at FROM notifications WHERE id = ANY(:ids)")


async def accept(connection: AsyncConnection, rows: Sequence[NewNotification]) -> dict[UUID, Known]:
    """Stores requests that are new and reads those that are not; returns what the database now says of each id.

    No two `rows` have the same id.
    """
    inserted = await connection.execute(_INSERT, arrays(rows, _COLUMNS))
    created_at: dict[UUID, datetime] = dict(inserted.tuples().all())
    known = {row.id: _new(row, created_at[row.id]) for row in rows if row.id in created_at}
    old = [row.id for row in rows if row.id not in known]
    if old:
        known |= {row.id: _known(row) for row in await connection.execute(_KNOWN, {"ids": old})}
    return known


def _new(row: NewNotification, created_at: datetime) -> Known:
    return Known(row.id, row.fingerprint, Status.ACCEPTED, RANK[Status.ACCEPTED], 0, created_at)


def _known(row: Any) -> Known:
    id_, fingerprint, status, rank, generation, created_at = row
    return Known(id_, fingerprint, Status(status), rank, generation, created_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnChange:
    """A notification's own change of status: one that no delivery tells (scheduled, or an end without delivery)."""

    id: UUID
    status: Status
    generation: int = 0
    reason: str | None = None
    rank: int = field(default=-1)


_OWN = {"id": "uuid", "status": "text", "rank": "smallint", "generation": "smallint", "reason": "text"}

_ADVANCE = text(
    f"""
    UPDATE notifications AS n
    SET status = g.status, rank = g.rank, generation = g.generation, reason = g.reason, updated_at = now()
    FROM {given("g", _OWN)}
    WHERE n.id = g.id AND (n.generation, n.rank) < (g.generation, g.rank)
    RETURNING n.id
    """  # noqa: S608
)


async def advance(connection: AsyncConnection, changes: Sequence[OwnChange]) -> set[UUID]:
    """Writes the changes that go forward, by compare-and-set on (generation, rank); returns their ids."""
    ranked = [
        OwnChange(id=c.id, status=c.status, generation=c.generation, reason=c.reason, rank=RANK[c.status])
        for c in sorted(changes, key=lambda c: c.id)
    ]
    await lock(connection, [change.id for change in ranked])
    result = await connection.execute(_ADVANCE, arrays(ranked, _OWN))
    return {row.id for row in result}


_LOCK = text(
    """
    WITH locked AS MATERIALIZED (
        SELECT id FROM notifications WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE
    )
    SELECT count(*) FROM locked
    """
)


async def lock(connection: AsyncConnection, ids: Sequence[UUID]) -> None:
    """Takes the rows' locks in id order, so that writers of one notification follow each other without deadlock.

    Claims hold a weaker lock (KEY SHARE) and are not held up by it; a cancellation takes a stronger one.
    """
    await connection.execute(_LOCK, {"ids": list(ids)})
