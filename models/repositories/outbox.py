"""Records that wait: for Kafka to come back (outbox), or for their time (schedules)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.repositories.arrays import arrays, given


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A record that waits in the database. `headers` is a JSON object of text values."""

    topic: str
    key: bytes
    value: bytes
    headers: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled(Waiting):
    """A record that waits until `due_at`; `id` makes scheduling it twice harmless."""

    id: UUID
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Taken:
    """A waiting record that this transaction has locked."""

    id: int | UUID
    topic: str
    key: bytes
    value: bytes
    headers: dict[str, str]


_WAITING = {"topic": "text", "key": "bytea", "value": "bytea", "headers": "text"}

_QUEUE = text(
    f"""
    INSERT INTO message_queue (topic, key, value, headers, created_at)
    SELECT topic, key, value, CAST(headers AS jsonb), now() FROM {given("g", _WAITING)}
    """  # noqa: S608  only names from this file
)


async def queue(connection: AsyncConnection, rows: Sequence[Waiting]) -> None:
    """Puts records into the outbox."""
    await connection.execute(_QUEUE, arrays(rows, _WAITING))


# One publisher at a time, so that the records of a key keep their order.
_ONE_PUBLISHER = text("SELECT pg_try_advisory_xact_lock(727003)")
_TAKE_QUEUED = text(
    "SELECT id, topic, key, value, headers FROM message_queue ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED"
)
_DELETE_QUEUED = text("DELETE FROM message_queue WHERE id = ANY(:ids)")


async def take_queued(connection: AsyncConnection, limit: int) -> list[Taken]:
    """Locks the oldest records of the outbox; none while another process publishes."""
    if not (await connection.execute(_ONE_PUBLISHER)).scalar_one():
        return []
    return [_taken(row) for row in await connection.execute(_TAKE_QUEUED, {"limit": limit})]


async def delete_queued(connection: AsyncConnection, ids: Sequence[int]) -> None:
    """Removes records that Kafka has acknowledged."""
    await connection.execute(_DELETE_QUEUED, {"ids": list(ids)})


_SCHEDULED = {"id": "uuid", "due_at": "timestamptz", **_WAITING}

_SCHEDULE = text(
    f"""
    INSERT INTO notification_schedules (id, due_at, topic, key, value, headers, created_at)
    SELECT id, due_at, topic, key, value, CAST(headers AS jsonb), now() FROM {given("g", _SCHEDULED)}
    ON CONFLICT (id) DO NOTHING
    """  # noqa: S608
)
_TAKE_DUE = text(
    """
    SELECT id, topic, key, value, headers FROM notification_schedules
    WHERE due_at <= least(now(), CAST(:now AS timestamptz)) ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    """
)
_DELETE_DUE = text("DELETE FROM notification_schedules WHERE id = ANY(:ids)")


async def schedule(connection: AsyncConnection, rows: Sequence[Scheduled]) -> None:
    """Keeps records until they are due; one that is kept already stays as it is."""
    await connection.execute(_SCHEDULE, arrays(rows, _SCHEDULED))


async def take_due(connection: AsyncConnection, limit: int, *, now: datetime) -> list[Taken]:
    """Locks records whose time has come, by the database's clock and by `now`: neither may be early alone."""
    return [_taken(row) for row in await connection.execute(_TAKE_DUE, {"limit": limit, "now": now})]


async def delete_due(connection: AsyncConnection, ids: Sequence[UUID]) -> None:
    """Removes records that Kafka has acknowledged."""
    await connection.execute(_DELETE_DUE, {"ids": list(ids)})


def _taken(row: Any) -> Taken:
    return Taken(row.id, row.topic, bytes(row.key), bytes(row.value), row.headers)
