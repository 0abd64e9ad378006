"""Whether a database full of old notifications slows down the new ones."""

from __future__ import annotations

import time
from typing import Any

import asyncpg

from bench.arrivals import arrived
from bench.load import flood
from bench.pipeline import WARM_UP, fresh_system, rate
from bench.targets import Target, line
from models.enums import Outcome, Status
from models.status import RANK

_STEP = 250_000
_TABLES = ("notifications", "notification_deliveries", "delivery_logs")

# Ids as random as those of the load, half a year of them, one e-mail each; all sent but a few.
_OLD = """
CREATE TEMPORARY TABLE old ON COMMIT DROP AS
SELECT md5('n' || i)::uuid AS id, md5('d' || i)::uuid AS delivery_id, 'user-' || (i * 7919) % 1000000 AS user_id,
       (i % 100) = 0 AS is_failed, now() - interval '180 days' * (1 - i / $2::float8) AS at, i
FROM generate_series($1::bigint, $1::bigint + $3::bigint - 1) AS i
"""
_STATEMENTS = (
    f"""
    INSERT INTO notifications (id, user_id, client, fingerprint, category, priority, status, rank, generation,
                               created_at, updated_at)
    SELECT id, user_id, 'bench', sha256(id::text::bytea), 'general', 'normal',
           CASE WHEN is_failed THEN '{Status.FAILED}' ELSE '{Status.SENT}' END,
           CASE WHEN is_failed THEN {RANK[Status.FAILED]} ELSE {RANK[Status.SENT]} END, 0,
           at, at + interval '1 second'
    FROM old
    """,
    f"""
    INSERT INTO notification_deliveries (delivery_id, notification_id, channel, status, rank, generation, provider,
                                         provider_message_id, attempts, created_at, updated_at)
    SELECT delivery_id, id, 'email', CASE WHEN is_failed THEN '{Status.FAILED}' ELSE '{Status.SENT}' END,
           CASE WHEN is_failed THEN {RANK[Status.FAILED]} ELSE {RANK[Status.SENT]} END, 0, 'sendgrid', 'old-' || i, 1,
           at, at + interval '1 second'
    FROM old
    """,
    f"""
    INSERT INTO delivery_logs (delivery_id, generation, attempt, claimed_at, lease_until, source_partition,
                               source_offset, takeovers, outcome, provider, provider_message_id, finished_at)
    SELECT delivery_id, 0, 1, at, at + interval '12 seconds', i % 8, i, 0,
           CASE WHEN is_failed THEN '{Outcome.PERMANENT}' ELSE '{Outcome.SENT}' END, 'sendgrid', 'old-' || i,
           at + interval '1 second'
    FROM old
    """,
)


async def old_rows(rows: int = 5_000_000, count: int = 20_000) -> dict[str, Any]:
    """The same run on an empty database and on one with so many old notifications, on the same servers."""
    async with fresh_system() as system:
        await arrived(system, await flood(system, WARM_UP, priority="normal"))
        empty = await rate(system, count)
        async with system.database() as database:
            started = time.monotonic()
            await fill(database, rows)
            filled_seconds = time.monotonic() - started
            megabytes = await database.fetchval("SELECT pg_database_size(current_database()) / 1e6")
        await arrived(system, await flood(system, WARM_UP, priority="normal", first=WARM_UP + count))
        full = await rate(system, count, first=2 * WARM_UP + count)
    figures = {
        "rows": rows,
        "notifications": count,
        "empty_per_second": empty["per_second"],
        "full_per_second": full["per_second"],
        "empty_cpu_us_each": empty["cpu_us_each"],
        "full_cpu_us_each": full["cpu_us_each"],
        "database_mb": round(megabytes),
        "filled_in_seconds": round(filled_seconds),
        "ratio": round(full["per_second"] / empty["per_second"], 2),
    }
    return line("old-rows", figures, Target("ratio", at_least=0.8))


async def fill(database: asyncpg.Connection, rows: int) -> None:
    """Old notifications with a delivery and an attempt each; then what autovacuum would have done by now."""
    await database.execute("SET synchronous_commit = off")
    for first in range(1, rows + 1, _STEP):
        async with database.transaction():
            await database.execute(_OLD, first, rows, min(_STEP, rows + 1 - first), timeout=600)
            for statement in _STATEMENTS:
                await database.execute(statement, timeout=600)
    for table in _TABLES:
        await database.execute(f"VACUUM (ANALYZE) {table}", timeout=1200)
    await database.execute("CHECKPOINT", timeout=600)
