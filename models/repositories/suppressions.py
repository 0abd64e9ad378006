"""The lists of addresses that are not to be written to: `unsubscribe_lists`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.addresses import listed_as
from models.enums import Channel, SuppressionReason
from models.repositories.arrays import given
from models.suppressions import Suppression


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSuppression:
    """An entry of the lists."""

    id: UUID
    channel: Channel
    address: str
    category: str
    reason: SuppressionReason
    source: str
    note: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entries; None where it doesn't matter. `address` as the lists hold it."""

    channel: Channel | None = None
    category: str | None = None
    reason: SuppressionReason | None = None
    address: str | None = None


_GIVEN = {
    "address": "text",
    "channel": "text",
    "category": "text",
    "reason": "text",
    "source": "text",
    "note": "text",
    "created_at": "timestamptz",
}
_KEY = {name: _GIVEN[name] for name in ("address", "channel", "category", "reason")}
_SAME = " AND ".join(f"u.{name} = g.{name}" for name in _KEY)
_FIELDS = "id, channel, address, category, reason, source, note, created_at"

# In the order of the key, so that two transactions that add the same can't wait for each other.
_ADD = text(
    f"""
    INSERT INTO unsubscribe_lists ({", ".join(_GIVEN)})
    SELECT {", ".join(_GIVEN)} FROM {given("g", _GIVEN)}
    ORDER BY address, channel, category, reason
    ON CONFLICT (address, channel, category, reason) DO NOTHING
    RETURNING {_FIELDS}
    """  # noqa: S608  only names from this file
)

_REMOVE = text(
    f"""
    DELETE FROM unsubscribe_lists AS u USING {given("g", _KEY)} WHERE {_SAME}
    RETURNING {", ".join(f"u.{name}" for name in _FIELDS.split(", "))}
    """  # noqa: S608
)
_REMOVE_ONE = text(f"DELETE FROM unsubscribe_lists WHERE id = :id RETURNING {_FIELDS}")  # noqa: S608
_GET = text(f"SELECT {_FIELDS} FROM unsubscribe_lists WHERE id = :id")  # noqa: S608


async def add(connection: AsyncConnection, entries: Sequence[Suppression]) -> list[StoredSuppression]:
    """Adds entries, each once.

    Returns:
        Those that were not there yet.
    """
    columns = _keys(entries) | {
        "source": [str(entry.source) for entry in entries],
        "note": [entry.note for entry in entries],
        "created_at": [entry.created_at for entry in entries],
    }
    return [_entry(row) for row in await connection.execute(_ADD, columns)]


async def remove(connection: AsyncConnection, entries: Sequence[Suppression]) -> list[StoredSuppression]:
    """Removes these entries, by address, channel, category and reason; returns those that were there."""
    return [_entry(row) for row in await connection.execute(_REMOVE, _keys(entries))]


async def remove_one(connection: AsyncConnection, entry_id: UUID) -> StoredSuppression | None:
    """Removes an entry; None where there is none."""
    row = (await connection.execute(_REMOVE_ONE, {"id": entry_id})).one_or_none()
    return None if row is None else _entry(row)


async def get(connection: AsyncConnection, entry_id: UUID) -> StoredSuppression | None:
    """One entry."""
    row = (await connection.execute(_GET, {"id": entry_id})).one_or_none()
    return None if row is None else _entry(row)


async def same(connection: AsyncConnection, entry: Suppression) -> StoredSuppression | None:
    """The entry as it is stored."""
    statement = text(f"SELECT u.* FROM unsubscribe_lists AS u, {given('g', _KEY)} WHERE {_SAME}")  # noqa: S608
    row = (await connection.execute(statement, _keys([entry]))).one_or_none()
    return None if row is None else _entry(row)


async def page(
    connection: AsyncConnection, wanted: Wanted, *, limit: int, before: tuple[datetime, UUID] | None
) -> list[StoredSuppression]:
    """Entries, the newest first."""
    return [_entry(row) for row in await connection.execute(*_select(wanted, limit=limit, before=before))]


def _select(wanted: Wanted, *, limit: int, before: tuple[datetime, UUID] | None) -> tuple[Any, dict[str, Any]]:
    values: dict[str, Any] = {
        name: str(value)
        for name in ("channel", "category", "reason", "address")
        if (value := getattr(wanted, name)) is not None
    }
    conditions = [f"{name} = :{name}" for name in values]
    if before is not None:
        conditions.append("(created_at, id) < (:before_at, :before_id)")
        values |= {"before_at": before[0], "before_id": before[1]}
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = f"SELECT {_FIELDS} FROM unsubscribe_lists {where} ORDER BY created_at DESC, id DESC LIMIT :limit"  # noqa: S608
    return text(statement), {**values, "limit": limit}


def _keys(entries: Sequence[Suppression]) -> dict[str, list[Any]]:
    return {
        "address": [listed_as(entry.channel, entry.address) for entry in entries],
        "channel": [str(entry.channel) for entry in entries],
        "category": [entry.category for entry in entries],
        "reason": [str(entry.reason) for entry in entries],
    }


def _entry(row: Any) -> StoredSuppression:
    return StoredSuppression(
        id=row.id,
        channel=Channel(row.channel),
        address=row.address,
        category=row.category,
        reason=SuppressionReason(row.reason),
        source=row.source,
        note=row.note,
        created_at=row.created_at,
    )
