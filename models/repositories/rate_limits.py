"""Limits as admins define them, and samples of their buckets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.limits import Limit, Sample, Scope
from models.repositories.arrays import arrays, given


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLimit(Limit):
    """A definition with the last sample of its bucket."""

    tokens: float | None = None
    sampled_at: datetime | None = None


_FIELDS = "scope, target, permits, per_seconds, burst, created_at, updated_at, tokens, sampled_at"

_ALL = text(f"SELECT {_FIELDS} FROM rate_limit_buckets")  # noqa: S608  only names from this file
_PAGE = text(
    f"""
    SELECT {_FIELDS} FROM rate_limit_buckets
    WHERE CAST(:scope AS text) IS NULL OR (scope, target) > (:scope, CAST(:target AS text))
    ORDER BY scope, target LIMIT :limit
    """  # noqa: S608
)
_GET = text(f"SELECT {_FIELDS} FROM rate_limit_buckets WHERE scope = :scope AND target = :target")  # noqa: S608
_PUT = text(
    f"""
    INSERT INTO rate_limit_buckets (scope, target, permits, per_seconds, burst, created_at, updated_at)
    VALUES (:scope, :target, :permits, :per_seconds, :burst, now(), now())
    ON CONFLICT (scope, target) DO UPDATE
    SET permits = EXCLUDED.permits, per_seconds = EXCLUDED.per_seconds, burst = EXCLUDED.burst,
        updated_at = EXCLUDED.updated_at
    RETURNING {_FIELDS}
    """  # noqa: S608
)
_DELETE = text("DELETE FROM rate_limit_buckets WHERE scope = :scope AND target = :target RETURNING target")


async def every(connection: AsyncConnection) -> list[StoredLimit]:
    """All definitions."""
    return [_limit(row) for row in await connection.execute(_ALL)]


async def page(connection: AsyncConnection, *, after: tuple[str, str] | None, limit: int) -> list[StoredLimit]:
    """Definitions by scope and target, those behind `after`."""
    scope, target = after or (None, None)
    return [_limit(row) for row in await connection.execute(_PAGE, {"scope": scope, "target": target, "limit": limit})]


async def get(connection: AsyncConnection, scope: Scope, target: str) -> StoredLimit | None:
    """One definition."""
    row = (await connection.execute(_GET, {"scope": scope, "target": target})).one_or_none()
    return None if row is None else _limit(row)


async def put(
    connection: AsyncConnection, scope: Scope, target: str, *, permits: int, per_seconds: int, burst: int
) -> StoredLimit:
    """Makes or replaces a definition."""
    values = {"scope": scope, "target": target, "permits": permits, "per_seconds": per_seconds, "burst": burst}
    return _limit((await connection.execute(_PUT, values)).one())


async def delete(connection: AsyncConnection, scope: Scope, target: str) -> bool:
    """Removes a definition; False when there was none."""
    return (await connection.execute(_DELETE, {"scope": scope, "target": target})).one_or_none() is not None


_SAMPLED = {"scope": "text", "target": "text", "tokens": "double precision", "sampled_at": "timestamptz"}
_SAMPLE = text(
    f"""
    UPDATE rate_limit_buckets AS b SET tokens = g.tokens, sampled_at = g.sampled_at
    FROM {given("g", _SAMPLED)}
    WHERE b.scope = g.scope AND b.target = g.target
    """  # noqa: S608
)


async def sample(connection: AsyncConnection, samples: Sequence[Sample]) -> None:
    """Keeps how full the buckets are."""
    ordered = sorted(samples, key=lambda one: (one.scope, one.target))
    await connection.execute(_SAMPLE, arrays(ordered, _SAMPLED))


def _limit(row: Any) -> StoredLimit:
    return StoredLimit(
        scope=Scope(row.scope),
        target=row.target,
        permits=row.permits,
        per_seconds=row.per_seconds,
        burst=row.burst,
        created_at=row.created_at,
        updated_at=row.updated_at,
        tokens=row.tokens,
        sampled_at=row.sampled_at,
    )
