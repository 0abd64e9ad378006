"""Contacts and devices as their owners manage them over HTTP, one person at a time.

What arrives in bulk by the topic `user.contacts` is written by `contact_records`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

#: A person has at most as many devices; the one registered longest ago makes room.
MAX_DEVICES = 50
_DEVICES = UUID("5a1f6c1e-6f0e-5d3f-9a53-0f4a0d6f1c03")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredContact:
    """A person's addresses."""

    user_id: str
    email: str | None
    phone: str | None
    name: str | None
    locale: str | None
    timezone: str | None
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDevice:
    """A person's push token."""

    platform: str
    token: str
    kind: str | None
    registered_at: datetime

    @property
    def device_id(self) -> UUID:
        """Stands for the token where the token itself should not be written, as in URLs."""
        return uuid5(_DEVICES, f"{self.platform}:{self.token}")


_FIELDS = "user_id, email, phone, name, locale, timezone, updated_at"

_GET = text(f"SELECT {_FIELDS} FROM contacts WHERE user_id = :user_id AND removed_at IS NULL")  # noqa: S608

# The caller speaks for now, so this wins over a record whose writer's clock runs ahead.
_PUT = text(
    f"""
    INSERT INTO contacts AS c (user_id, email, phone, name, locale, timezone, updated_at)
    VALUES (:user_id, :email, :phone, :name, :locale, :timezone, now())
    ON CONFLICT (user_id) DO UPDATE
    SET email = EXCLUDED.email, phone = EXCLUDED.phone, name = EXCLUDED.name, locale = EXCLUDED.locale,
        timezone = EXCLUDED.timezone, removed_at = NULL,
        updated_at = GREATEST(now(), c.updated_at + interval '1 microsecond')
    RETURNING {_FIELDS}
    """  # noqa: S608  only names from this file
)

_REMOVE = text(
    """
    UPDATE contacts
    SET email = NULL, phone = NULL, name = NULL, locale = NULL, timezone = NULL, removed_at = now(),
        updated_at = GREATEST(now(), updated_at + interval '1 microsecond')
    WHERE user_id = :user_id AND removed_at IS NULL
    RETURNING user_id
    """
)


async def get(connection: AsyncConnection, user_id: str) -> StoredContact | None:
    """A person's contact; None where there is none, or no longer."""
    row = (await connection.execute(_GET, {"user_id": user_id})).one_or_none()
    return None if row is None else _contact(row)


async def put(
    connection: AsyncConnection,
    *,
    user_id: str,
    email: str | None,
    phone: str | None,
    name: str | None,
    locale: str | None,
    timezone: str | None,
) -> StoredContact:
    """Replaces a person's contact by this one."""
    values = {"user_id": user_id, "email": email, "phone": phone, "name": name, "locale": locale, "timezone": timezone}
    return _contact((await connection.execute(_PUT, values)).one())


async def remove(connection: AsyncConnection, user_id: str) -> bool:
    """Empties a person's contact; the row stays, so that an older record can't bring it back. False: there was none."""
    return (await connection.execute(_REMOVE, {"user_id": user_id})).one_or_none() is not None


def _contact(row: Any) -> StoredContact:
    return StoredContact(**row._mapping)


_LIST_DEVICES = text(
    "SELECT platform, token, kind, registered_at FROM devices WHERE user_id = :user_id "
    "ORDER BY registered_at DESC, platform, token LIMIT 1000"
)

_PUT_DEVICE = text(
    """
    INSERT INTO devices (platform, token, user_id, kind, registered_at)
    VALUES (:platform, :token, :user_id, :kind, clock_timestamp())
    ON CONFLICT (platform, token) DO UPDATE
    SET user_id = EXCLUDED.user_id, kind = EXCLUDED.kind, registered_at = EXCLUDED.registered_at
    RETURNING platform, token, kind, registered_at
    """
)

_OWNER = text("SELECT user_id FROM devices WHERE platform = :platform AND token = :token FOR UPDATE")

_TRIM_DEVICES = text(
    """
    DELETE FROM devices WHERE (platform, token) IN (
        SELECT platform, token FROM devices WHERE user_id = :user_id
        ORDER BY registered_at DESC, platform, token OFFSET :keep
    )
    """
)

_DELETE_DEVICE = text(
    "DELETE FROM devices WHERE user_id = :user_id AND platform = :platform AND token = :token RETURNING platform"
)


async def devices(connection: AsyncConnection, user_id: str) -> list[StoredDevice]:
    """A person's devices, the newest first."""
    return [StoredDevice(**row._mapping) for row in await connection.execute(_LIST_DEVICES, {"user_id": user_id})]


async def device_owner(connection: AsyncConnection, *, platform: str, token: str) -> str | None:
    """Whose token it is now; it stays theirs until this transaction ends."""
    values = {"platform": platform, "token": token}
    found: str | None = (await connection.execute(_OWNER, values)).scalar_one_or_none()
    return found


async def put_device(
    connection: AsyncConnection, *, user_id: str, platform: str, token: str, kind: str | None
) -> StoredDevice:
    """Registers a token; it now belongs to this person alone."""
    values = {"user_id": user_id, "platform": platform, "token": token, "kind": kind}
    row = (await connection.execute(_PUT_DEVICE, values)).one()
    await connection.execute(_TRIM_DEVICES, {"user_id": user_id, "keep": MAX_DEVICES})
    return StoredDevice(**row._mapping)


async def remove_device(connection: AsyncConnection, *, user_id: str, platform: str, token: str) -> bool:
    """Forgets a token of this person. False: they have no such one."""
    values = {"user_id": user_id, "platform": platform, "token": token}
    return (await connection.execute(_DELETE_DEVICE, values)).one_or_none() is not None
