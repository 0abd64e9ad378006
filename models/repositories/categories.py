"""Categories as admins manage them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.enums import Channel, Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCategory:
    """A kind of notification and what hangs on it."""

    key: str
    transactional: bool
    default_channels: tuple[Channel, ...]
    priority: Priority | None
    quiet_hours: str
    created_at: datetime
    updated_at: datetime


_FIELDS = "key, transactional, default_channels, priority, quiet_hours, created_at, updated_at"
_VALUES = ":key, :transactional, CAST(:default_channels AS jsonb), :priority, :quiet_hours, now(), now()"

_LIST = text(
    f"""
    SELECT {_FIELDS} FROM notification_categories
    WHERE CAST(:after AS text) IS NULL OR key > :after ORDER BY key LIMIT :limit
    """  # noqa: S608  only names from this file
)
_GET = text(f"SELECT {_FIELDS} FROM notification_categories WHERE key = :key")  # noqa: S608
_CREATE = text(
    f"""
    INSERT INTO notification_categories ({_FIELDS}) VALUES ({_VALUES})
    ON CONFLICT (key) DO NOTHING RETURNING {_FIELDS}
    """  # noqa: S608
)
_PUT = text(
    f"""
    INSERT INTO notification_categories ({_FIELDS}) VALUES ({_VALUES})
    ON CONFLICT (key) DO UPDATE
    SET transactional = EXCLUDED.transactional, default_channels = EXCLUDED.default_channels,
        priority = EXCLUDED.priority, quiet_hours = EXCLUDED.quiet_hours, updated_at = EXCLUDED.updated_at
    RETURNING {_FIELDS}
    """  # noqa: S608
)


async def page(connection: AsyncConnection, *, after: str | None, limit: int) -> list[StoredCategory]:
    """Categories by key, those behind `after`."""
    return [_category(row) for row in await connection.execute(_LIST, {"after": after, "limit": limit})]


async def get(connection: AsyncConnection, key: str) -> StoredCategory | None:
    """One category."""
    row = (await connection.execute(_GET, {"key": key})).one_or_none()
    return None if row is None else _category(row)


async def create(
    connection: AsyncConnection,
    *,
    key: str,
    transactional: bool,
    default_channels: tuple[Channel, ...],
    priority: Priority | None,
    quiet_hours: str,
) -> StoredCategory | None:
    """Makes a category; None when the key is taken."""
    values = _values(key, transactional, default_channels, priority, quiet_hours)
    row = (await connection.execute(_CREATE, values)).one_or_none()
    return None if row is None else _category(row)


async def put(
    connection: AsyncConnection,
    *,
    key: str,
    transactional: bool,
    default_channels: tuple[Channel, ...],
    priority: Priority | None,
    quiet_hours: str,
) -> StoredCategory:
    """Makes or replaces a category."""
    values = _values(key, transactional, default_channels, priority, quiet_hours)
    return _category((await connection.execute(_PUT, values)).one())


def _values(
    key: str,
    transactional: bool,
    default_channels: tuple[Channel, ...],
    priority: Priority | None,
    quiet_hours: str,
) -> dict[str, Any]:
    return {
        "key": key,
        "transactional": transactional,
        "default_channels": orjson.dumps(default_channels).decode(),
        "priority": priority,
        "quiet_hours": quiet_hours,
    }


def _category(row: Any) -> StoredCategory:
    return StoredCategory(
        key=row.key,
        transactional=row.transactional,
        default_channels=tuple(Channel(name) for name in row.default_channels),
        priority=None if row.priority is None else Priority(row.priority),
        quiet_hours=row.quiet_hours,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
