"""What people chose to get, one person at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPreferences:
    """Only what the person chose; `updated_at` is None as long as they chose nothing."""

    channels: dict[str, Any]
    categories: dict[str, Any]
    quiet_hours: dict[str, Any] | None
    updated_at: datetime | None


_GET = text(
    "SELECT channels, categories, quiet_hours, updated_at FROM notification_preferences WHERE user_id = :user_id"
)

_PUT = text(
    """
    INSERT INTO notification_preferences (user_id, channels, categories, quiet_hours, updated_at)
    VALUES (:user_id, CAST(:channels AS jsonb), CAST(:categories AS jsonb), CAST(:quiet_hours AS jsonb), now())
    ON CONFLICT (user_id) DO UPDATE
    SET channels = EXCLUDED.channels, categories = EXCLUDED.categories, quiet_hours = EXCLUDED.quiet_hours,
        updated_at = EXCLUDED.updated_at
    RETURNING channels, categories, quiet_hours, updated_at
    """
)


async def get(connection: AsyncConnection, user_id: str) -> StoredPreferences:
    """What the person chose; empty for somebody who never did."""
    row = (await connection.execute(_GET, {"user_id": user_id})).one_or_none()
    if row is None:
        return StoredPreferences(channels={}, categories={}, quiet_hours=None, updated_at=None)
    return StoredPreferences(**row._mapping)


async def put(
    connection: AsyncConnection,
    *,
    user_id: str,
    channels: dict[str, bool],
    categories: dict[str, dict[str, bool]],
    quiet_hours: dict[str, str] | None,
) -> StoredPreferences:
    """Replaces all that the person chose."""
    values = {
        "user_id": user_id,
        "channels": orjson.dumps(channels).decode(),
        "categories": orjson.dumps(categories).decode(),
        "quiet_hours": None if quiet_hours is None else orjson.dumps(quiet_hours).decode(),
    }
    return StoredPreferences(**(await connection.execute(_PUT, values)).one()._mapping)
