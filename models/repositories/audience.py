"""Bulk reads for the request lanes: one statement a table and batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.audience import Category, Person, Template
from models.enums import Channel, SuppressionReason
from models.requests import Device

_PEOPLE = text(
    """
    SELECT COALESCE(c.user_id, p.user_id) AS user_id, c.email, c.phone, c.name, c.locale, c.timezone,
           p.channels, p.categories
    FROM (SELECT * FROM contacts WHERE user_id = ANY(:ids)) AS c
    FULL JOIN (SELECT * FROM notification_preferences WHERE user_id = ANY(:ids)) AS p ON p.user_id = c.user_id
    """
)

_DEVICES = text(
    "SELECT user_id, platform, token, kind FROM devices WHERE user_id = ANY(:ids) ORDER BY registered_at DESC"
)


async def people(connection: AsyncConnection, user_ids: Collection[str]) -> dict[str, Person]:
    """Contacts and preferences of these users; those nothing is known of are absent."""
    ids = {"ids": list(user_ids)}
    rows = (await connection.execute(_PEOPLE, ids)).all()
    devices: dict[str, list[Device]] = defaultdict(list)
    for row in await connection.execute(_DEVICES, ids):
        devices[row.user_id].append(_device(row))
    found = {row.user_id: _person(row, tuple(devices.pop(row.user_id, ()))) for row in rows}
    found |= {user: Person(user_id=user, devices=tuple(tokens)) for user, tokens in devices.items()}
    return found


def _device(row: Any) -> Device:
    if row.kind is None:
        return Device(platform=row.platform, token=row.token)
    return Device(platform=row.platform, token=row.token, kind=row.kind)


def _person(row: Any, devices: tuple[Device, ...]) -> Person:
    user_id, email, phone, name, locale, timezone, channels, categories = row
    return Person(
        user_id=user_id,
        email=email,
        phone=phone,
        name=name,
        locale=locale,
        timezone=timezone,
        devices=devices,
        channels=channels or {},
        categories=categories or {},
    )


# By the index for each address, whatever the planner thinks: a list that was just imported has no statistics yet,
# and OFFSET keeps it from making one join of it all, which reads the whole table.
_UNSUBSCRIBED = text(
    """
    SELECT u.channel, u.address, u.category, u.reason
    FROM unnest(CAST(:addresses AS text[])) AS asked(address)
    CROSS JOIN LATERAL (
        SELECT channel, address, category, reason FROM unsubscribe_lists WHERE address = asked.address OFFSET 0
    ) AS u
    """
)


async def unsubscribed(
    connection: AsyncConnection, addresses: Collection[str]
) -> dict[tuple[str, str, str], set[SuppressionReason]]:
    """Why nothing goes to these addresses (as the lists write them), by (channel, address, category).

    The category '' stands for everything.
    """
    found: dict[tuple[str, str, str], set[SuppressionReason]] = defaultdict(set)
    for row in await connection.execute(_UNSUBSCRIBED, {"addresses": list(addresses)}):
        found[row.channel, row.address, row.category].add(SuppressionReason(row.reason))
    return dict(found)


_CATEGORIES = text("SELECT key, transactional, default_channels FROM notification_categories")


async def categories(connection: AsyncConnection) -> dict[str, Category]:
    """All categories by key; there are few."""
    return {
        row.key: Category(
            key=row.key,
            transactional=row.transactional,
            default_channels=tuple(Channel(name) for name in row.default_channels),
        )
        for row in await connection.execute(_CATEGORIES)
    }


_PUBLISHED = text(
    """
    SELECT t.key, t.locale, t.version, t.channel, t.parts
    FROM notification_templates AS t
    JOIN (
        SELECT key, locale, max(version) AS version FROM notification_templates
        WHERE key = ANY(:keys) AND published_at IS NOT NULL GROUP BY key, locale
    ) AS newest USING (key, locale, version)
    """
)


async def templates(connection: AsyncConnection, keys: Collection[str]) -> list[Template]:
    """The newest published version of these templates, in all their locales and channels."""
    return [
        Template(key=row.key, locale=row.locale, version=row.version, channel=Channel(row.channel), parts=row.parts)
        for row in await connection.execute(_PUBLISHED, {"keys": list(keys)})
    ]
