"""Templates as admins manage them. A version is never changed; the highest published one of a locale is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.enums import Channel
from models.repositories.arrays import given


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTemplate:
    """One version of a template in one locale, with all its channels."""

    key: str
    locale: str
    version: int
    category: str | None
    variables: tuple[str, ...]
    channels: Mapping[Channel, Mapping[str, str]]
    created_by: str
    created_at: datetime
    #: None while it is a draft.
    published_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTemplate:
    """A version to be written."""

    key: str
    locale: str
    category: str | None
    variables: Sequence[str]
    channels: Mapping[Channel, Mapping[str, str]]
    created_by: str
    published: bool


_FIELDS = """
    key, locale, version, min(category) AS category, min(variables::text) AS variables,
    jsonb_object_agg(channel, parts) AS channels, min(created_by) AS created_by,
    min(created_at) AS created_at, min(published_at) AS published_at
"""

_NEWEST = text(
    f"""
    SELECT {_FIELDS} FROM notification_templates AS t
    JOIN (
        SELECT key, locale, max(version) AS version FROM notification_templates
        WHERE CAST(:key AS text) IS NULL OR (key, locale) > (CAST(:key AS text), CAST(:locale AS text))
        GROUP BY key, locale ORDER BY key, locale LIMIT :limit
    ) AS newest USING (key, locale, version)
    GROUP BY key, locale, version ORDER BY key, locale
    """  # noqa: S608  only names from this file
)

_VERSIONS = text(
    f"""
    SELECT {_FIELDS} FROM notification_templates
    WHERE key = :key AND (CAST(:locale AS text) IS NULL OR locale = :locale)
      AND (CAST(:before AS integer) IS NULL OR (version, locale) < (:before, CAST(:before_locale AS text)))
    GROUP BY key, locale, version ORDER BY version DESC, locale DESC LIMIT :limit
    """  # noqa: S608
)

_ONE = text(
    f"""
    SELECT {_FIELDS} FROM notification_templates
    WHERE key = :key AND locale = :locale AND (
        version = :version
        OR (CAST(:version AS integer) IS NULL AND version = (
            SELECT max(version) FROM notification_templates WHERE key = :key AND locale = :locale
        ))
    )
    GROUP BY key, locale, version
    """  # noqa: S608
)

_LOCALES = text("SELECT DISTINCT locale FROM notification_templates WHERE key = :key ORDER BY locale")

_LOCK = text("SELECT pg_advisory_xact_lock(727004, hashtext(:key))")
_LAST = text("SELECT max(version) FROM notification_templates WHERE key = :key AND locale = :locale")

_PARTS = {"channel": "text", "parts": "text"}

_INSERT = text(
    f"""
    INSERT INTO notification_templates
        (key, locale, version, channel, parts, category, variables, created_by, created_at, published_at)
    SELECT :key, :locale, :version, channel, CAST(parts AS jsonb), :category, CAST(:variables AS jsonb), :created_by,
           now(), CASE WHEN :published THEN now() END
    FROM {given("g", _PARTS)}
    """  # noqa: S608
)

_PUBLISH = text(
    """
    UPDATE notification_templates SET published_at = now()
    WHERE key = :key AND locale = :locale AND version = :version AND published_at IS NULL
    """
)

_PUBLISHED = text(
    """
    SELECT max(version) FROM notification_templates
    WHERE key = :key AND locale = :locale AND published_at IS NOT NULL
    """
)


async def page(connection: AsyncConnection, *, after: tuple[str, ...] | None, limit: int) -> list[StoredTemplate]:
    """The newest version of each template and locale, by key and locale, those behind `after`."""
    key, locale = after if after is not None else (None, None)
    rows = await connection.execute(_NEWEST, {"key": key, "locale": locale, "limit": limit})
    return [_template(row) for row in rows]


async def versions(
    connection: AsyncConnection,
    key: str,
    *,
    locale: str | None,
    before: tuple[int, str] | None,
    limit: int,
) -> list[StoredTemplate]:
    """All versions of a template, the newest first."""
    number, tie = before if before is not None else (None, None)
    values = {"key": key, "locale": locale, "before": number, "before_locale": tie, "limit": limit}
    return [_template(row) for row in await connection.execute(_VERSIONS, values)]


async def get(
    connection: AsyncConnection, key: str, *, locale: str, version: int | None = None
) -> StoredTemplate | None:
    """One version in one locale; without `version` the newest, drafts included."""
    row = (await connection.execute(_ONE, {"key": key, "locale": locale, "version": version})).one_or_none()
    return None if row is None else _template(row)


async def locales(connection: AsyncConnection, key: str) -> list[str]:
    """The locales that a template has; empty where there is no such template."""
    return list((await connection.execute(_LOCALES, {"key": key})).scalars())


async def lock(connection: AsyncConnection, key: str) -> None:
    """Lets writers of one template follow each other."""
    await connection.execute(_LOCK, {"key": key})


async def add(connection: AsyncConnection, new: NewTemplate) -> StoredTemplate:
    """Writes the next version; `lock` comes first."""
    last: int | None = (await connection.execute(_LAST, {"key": new.key, "locale": new.locale})).scalar_one()
    version = (last or 0) + 1
    values = {
        "key": new.key,
        "locale": new.locale,
        "version": version,
        "category": new.category,
        "variables": orjson.dumps(list(new.variables)).decode(),
        "created_by": new.created_by,
        "published": new.published,
        "channel": list(new.channels),
        "parts": [orjson.dumps(dict(parts)).decode() for parts in new.channels.values()],
    }
    await connection.execute(_INSERT, values)
    stored = await get(connection, new.key, locale=new.locale, version=version)
    assert stored is not None  # written just now
    return stored


async def publish(connection: AsyncConnection, template: StoredTemplate, *, published_by: str) -> StoredTemplate:
    """Puts a version into use; `lock` comes first.

    The highest published version is the one in use, so one below it comes back as a copy with the next number.
    """
    place = {"key": template.key, "locale": template.locale}
    highest: int | None = (await connection.execute(_PUBLISHED, place)).scalar_one()
    if highest == template.version:
        return template
    if highest is not None and highest > template.version:
        return await add(connection, _copy(template, published_by))
    await connection.execute(_PUBLISH, {**place, "version": template.version})
    stored = await get(connection, template.key, locale=template.locale, version=template.version)
    assert stored is not None  # it was there, and versions are never removed
    return stored


def _copy(template: StoredTemplate, created_by: str) -> NewTemplate:
    return NewTemplate(
        key=template.key,
        locale=template.locale,
        category=template.category,
        variables=template.variables,
        channels=template.channels,
        created_by=created_by,
        published=True,
    )


def _template(row: Any) -> StoredTemplate:
    return StoredTemplate(
        key=row.key,
        locale=row.locale,
        version=row.version,
        category=row.category,
        variables=tuple(orjson.loads(row.variables)),
        channels={Channel(name): parts for name, parts in sorted(row.channels.items())},
        created_by=row.created_by,
        created_at=row.created_at,
        published_at=row.published_at,
    )
