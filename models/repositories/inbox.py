"""In-app messages as the person they are for reads them; `inbox_items` writes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxMessage:
    """One in-app message."""

    id: UUID
    notification_id: UUID
    category: str
    title: str
    body: str
    action_url: str | None
    image_url: str | None
    created_at: datetime
    read_at: datetime | None


_FIELDS = "id, notification_id, category, title, body, action_url, image_url, created_at, read_at"

_PAGE = text(
    f"""
    SELECT {_FIELDS} FROM inbox
    WHERE user_id = :user_id AND (NOT CAST(:unread AS boolean) OR read_at IS NULL)
      AND (CAST(:before AS timestamptz) IS NULL
           OR (created_at, id) < (CAST(:before AS timestamptz), CAST(:before_id AS uuid)))
    ORDER BY created_at DESC, id DESC LIMIT :limit
    """  # noqa: S608  only names from this file
)

_UNREAD = text("SELECT count(*) FROM inbox WHERE user_id = :user_id AND read_at IS NULL")

_READ = text(
    """
    UPDATE inbox SET read_at = COALESCE(read_at, now()) WHERE id = :id AND user_id = :user_id RETURNING read_at
    """
)

_READ_ALL = text("UPDATE inbox SET read_at = now() WHERE user_id = :user_id AND read_at IS NULL")


async def page(
    connection: AsyncConnection,
    user_id: str,
    *,
    unread: bool,
    before: tuple[datetime, UUID] | None,
    limit: int,
) -> list[InboxMessage]:
    """A person's messages, the newest first."""
    moment, tie = before if before is not None else (None, None)
    values: dict[str, Any] = {
        "user_id": user_id,
        "unread": unread,
        "before": moment,
        "before_id": tie,
        "limit": limit,
    }
    return [InboxMessage(**row._mapping) for row in await connection.execute(_PAGE, values)]


async def unread_count(connection: AsyncConnection, user_id: str) -> int:
    """How many messages the person has not read."""
    return int((await connection.execute(_UNREAD, {"user_id": user_id})).scalar_one())


async def mark_read(connection: AsyncConnection, user_id: str, message_id: UUID) -> datetime | None:
    """Marks one message; returns when it was first read, None where the person has no such message."""
    row = (await connection.execute(_READ, {"id": message_id, "user_id": user_id})).one_or_none()
    return None if row is None else row.read_at


async def mark_all_read(connection: AsyncConnection, user_id: str) -> int:
    """Marks all messages; returns how many were unread."""
    return int((await connection.execute(_READ_ALL, {"user_id": user_id})).rowcount)
