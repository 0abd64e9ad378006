"""Samples of what waits where: taken by one process at a time, read by operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.repositories.arrays import arrays, given

#: How long every sample is kept, and after that one a minute.
FINE = timedelta(hours=1)
KEPT = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSample:
    """One queue at one moment."""

    lane: str
    sampled_at: datetime
    #: Records, or rows, that wait.
    lag: int
    #: All that ever came in and went out; only their differences mean something.
    in_total: int | None = None
    out_total: int | None = None
    in_per_second: float | None = None
    out_per_second: float | None = None
    oldest_age_seconds: float | None = None
    #: Members of the consumer group; None where none reads it.
    members: int | None = None
    is_minutely: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to take the next sample, until the transaction ends."""

    now: datetime
    #: What was sampled last; empty before the first time.
    before: Sequence[QueueSample]


@dataclass(frozen=True, slots=True)
class Rows:
    """A table of waiting records: how many, since when the oldest waits, and how many came and went in all."""

    waiting: int
    oldest_at: datetime | None
    came: int
    went: int


_COLUMNS = {
    "lane": "text",
    "sampled_at": "timestamptz",
    "lag": "bigint",
    "in_total": "bigint",
    "out_total": "bigint",
    "in_per_second": "double precision",
    "out_per_second": "double precision",
    "oldest_age_seconds": "double precision",
    "members": "integer",
    "is_minutely": "boolean",
}
_NAMES = ", ".join(_COLUMNS)

_ONE_SAMPLER = text("SELECT pg_try_advisory_xact_lock(727004) AS is_ours, clock_timestamp() AS now")
_NEWEST = text(
    f"SELECT {_NAMES} FROM queue_metrics WHERE sampled_at = (SELECT max(sampled_at) FROM queue_metrics)"  # noqa: S608
)
_ADD = text(
    f"""
    INSERT INTO queue_metrics ({_NAMES}) SELECT {_NAMES} FROM {given("g", _COLUMNS)} ON CONFLICT DO NOTHING
    """  # noqa: S608  only names from this file
)
_HISTORY = text(
    f"""
    SELECT {_NAMES} FROM queue_metrics
    WHERE lane = :lane AND sampled_at >= :since AND (CAST(:before AS timestamptz) IS NULL OR sampled_at < :before)
    ORDER BY sampled_at DESC LIMIT :limit
    """  # noqa: S608
)
_THIN = text("DELETE FROM queue_metrics WHERE NOT is_minutely AND sampled_at < :fine_since")
_PRUNE = text("DELETE FROM queue_metrics WHERE sampled_at < :kept_since")


async def take_turn(connection: AsyncConnection, *, every: timedelta) -> Turn | None:
    """The next sample, for one process of the cluster; None while another takes it, or before its time."""
    claimed = (await connection.execute(_ONE_SAMPLER)).one()
    if not claimed.is_ours:
        return None
    before = await newest(connection)
    # A little early is on time: who sampled last should go on, and timers are not that exact.
    if before and timedelta() <= claimed.now - before[0].sampled_at < every * 0.9:
        return None
    return Turn(claimed.now, before)


async def newest(connection: AsyncConnection) -> list[QueueSample]:
    """The last sample of all queues; empty before the first time."""
    return [_sample(row) for row in await connection.execute(_NEWEST)]


async def history(
    connection: AsyncConnection, lane: str, *, since: datetime, before: datetime | None, limit: int
) -> list[QueueSample]:
    """Samples of one queue, newest first; `before` is where the page before ended."""
    values = {"lane": lane, "since": since, "before": before, "limit": limit}
    return [_sample(row) for row in await connection.execute(_HISTORY, values)]


async def add(connection: AsyncConnection, samples: Sequence[QueueSample]) -> None:
    """Stores one sample of all queues."""
    await connection.execute(_ADD, arrays(samples, _COLUMNS))


async def thin_out(connection: AsyncConnection, *, now: datetime) -> None:
    """Forgets what is too old, and of what is older than an hour all but one sample a minute."""
    await connection.execute(_THIN, {"fine_since": now - FINE})
    await connection.execute(_PRUNE, {"kept_since": now - KEPT})


# Exact up to a bound; beyond it the database's own estimate has to do, so that a sample is cheap however much waits.
# The statistics of what came and went are a second late, and start at nothing after a crash of the database.
_ROWS = """
    SELECT CASE WHEN w.counted < {bound} THEN w.counted ELSE greatest(w.counted, s.n_live_tup) END AS waiting,
           (SELECT {since} FROM {table} ORDER BY {order} LIMIT 1) AS oldest_at,
           coalesce(s.n_tup_ins, 0) AS came, coalesce(s.n_tup_del, 0) AS went
    FROM (SELECT count(*) AS counted FROM (SELECT 1 FROM {table} LIMIT {bound}) AS bounded) AS w
    LEFT JOIN pg_stat_user_tables AS s ON s.relid = CAST('{table}' AS regclass)
"""
_BOUND = 100_000
_OUTBOX = text(_ROWS.format(table="message_queue", since="created_at", order="id", bound=_BOUND))
_SCHEDULES = text(_ROWS.format(table="notification_schedules", since="due_at", order="due_at", bound=_BOUND))


async def outbox_rows(connection: AsyncConnection) -> Rows:
    """What waits for Kafka."""
    return _rows((await connection.execute(_OUTBOX)).one())


async def schedule_rows(connection: AsyncConnection) -> Rows:
    """What waits for its time; `oldest_at` is when the next one is, or was, due."""
    return _rows((await connection.execute(_SCHEDULES)).one())


def _rows(row: Any) -> Rows:
    return Rows(row.waiting, row.oldest_at, row.came, row.went)


def _sample(row: Any) -> QueueSample:
    return QueueSample(**row._mapping)
