"""Contacts as they come from the topic `user.contacts`, in bulk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.changes import DeadDevice
from models.repositories.arrays import arrays, given


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactRow:
    """A contact as its owner states it; with `removed_at` it is gone."""

    user_id: str
    email: str | None = None
    phone: str | None = None
    name: str | None = None
    locale: str | None = None
    timezone: str | None = None
    updated_at: datetime
    removed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """A push token of a person."""

    platform: str
    token: str
    user_id: str
    kind: str | None = None
    registered_at: datetime


_CONTACT = {
    "user_id": "text",
    "email": "text",
    "phone": "text",
    "name": "text",
    "locale": "text",
    "timezone": "text",
    "updated_at": "timestamptz",
    "removed_at": "timestamptz",
}
_NAMES = ", ".join(_CONTACT)

_UPSERT = text(
    f"""
    INSERT INTO contacts AS c ({_NAMES}) SELECT {_NAMES} FROM {given("g", _CONTACT)} ORDER BY user_id
    ON CONFLICT (user_id) DO UPDATE
    SET email = EXCLUDED.email, phone = EXCLUDED.phone, name = EXCLUDED.name, locale = EXCLUDED.locale,
        timezone = EXCLUDED.timezone, updated_at = EXCLUDED.updated_at, removed_at = EXCLUDED.removed_at
    WHERE c.updated_at <= EXCLUDED.updated_at
    RETURNING c.user_id
    """  # noqa: S608  only names from this file
)

_FORGET_DEVICES = text("DELETE FROM devices WHERE user_id = ANY(:ids)")

_DEVICE = {"platform": "text", "token": "text", "user_id": "text", "kind": "text", "registered_at": "timestamptz"}

_REGISTER = text(
    f"""
    INSERT INTO devices AS d (platform, token, user_id, kind, registered_at)
    SELECT platform, token, user_id, kind, registered_at FROM {given("g", _DEVICE)} ORDER BY platform, token
    ON CONFLICT (platform, token) DO UPDATE
    SET user_id = EXCLUDED.user_id, kind = EXCLUDED.kind, registered_at = EXCLUDED.registered_at
    WHERE d.registered_at <= EXCLUDED.registered_at
    """  # noqa: S608
)

_TOKEN = {"platform": "text", "token": "text"}

_OWNERS = text(
    f"""
    SELECT d.user_id FROM devices AS d JOIN {given("g", _TOKEN)} USING (platform, token)
    ORDER BY d.platform, d.token FOR UPDATE OF d
    """  # noqa: S608
)


async def upsert(connection: AsyncConnection, rows: Sequence[ContactRow]) -> set[str]:
    """Writes contacts, one row a user; an older one never overwrites a newer. Returns the users that were written."""
    written = await connection.execute(_UPSERT, arrays(rows, _CONTACT))
    return {row.user_id for row in written}


async def forget_devices(connection: AsyncConnection, user_ids: Sequence[str]) -> None:
    """Removes all push tokens of these users."""
    await connection.execute(_FORGET_DEVICES, {"ids": list(user_ids)})


async def owners(connection: AsyncConnection, rows: Sequence[DeviceRow]) -> set[str]:
    """Whose these push tokens are now; they stay theirs until this transaction ends."""
    found = await connection.execute(_OWNERS, arrays(rows, _TOKEN))
    return {row.user_id for row in found}


_DEAD = {"platform": "text", "token": "text", "dead_since": "timestamptz"}

# Locked in the order of registrations. One that was registered after its vendor called it dead is alive.
_FORGET_DEAD = text(
    f"""
    WITH dead AS MATERIALIZED (
        SELECT d.platform, d.token FROM devices AS d JOIN {given("g", _DEAD)} USING (platform, token)
        WHERE g.dead_since IS NULL OR d.registered_at < g.dead_since
        ORDER BY d.platform, d.token FOR UPDATE OF d
    )
    DELETE FROM devices AS d USING dead WHERE d.platform = dead.platform AND d.token = dead.token
    RETURNING d.user_id
    """  # noqa: S608
)


async def forget_dead(connection: AsyncConnection, dead: Sequence[DeadDevice]) -> set[str]:
    """Removes push tokens that their vendor doesn't know any more. Returns whose they were."""
    removed = await connection.execute(_FORGET_DEAD, arrays(dead, _DEAD))
    return {row.user_id for row in removed}


async def register_devices(connection: AsyncConnection, rows: Sequence[DeviceRow]) -> None:
    """Gives push tokens to the users who registered them last."""
    await connection.execute(_REGISTER, arrays(rows, _DEVICE))
