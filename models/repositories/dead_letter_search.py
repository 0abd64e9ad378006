"""Looking for dead letters in their index."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.repositories.dead_letters import DeadLetter


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which dead letters; what is None doesn't matter. `topic` carries no prefix and is where they came from."""

    stage: str | None = None
    error_class: str | None = None
    channel: str | None = None
    topic: str | None = None
    since: datetime | None = None


_FIND = text(
    """
    SELECT id, source_topic, source_partition, source_offset, stage, error_class, error_reason, notification_id,
           channel, attempts, failed_at
    FROM delivery_failures
    WHERE (CAST(:stage AS text) IS NULL OR stage = :stage)
      AND (CAST(:error_class AS text) IS NULL OR error_class = :error_class)
      AND (CAST(:channel AS text) IS NULL OR channel = :channel)
      AND (CAST(:topic AS text) IS NULL OR source_topic = :topic)
      AND (CAST(:since AS timestamptz) IS NULL OR failed_at >= :since)
    ORDER BY failed_at DESC, id DESC
    LIMIT :limit
    """
)


async def find(connection: AsyncConnection, wanted: Wanted, *, limit: int) -> list[DeadLetter]:
    """The newest dead letters that are wanted, newest first."""
    rows = await connection.execute(_FIND, {**asdict(wanted), "limit": limit})
    return [DeadLetter(**row._mapping) for row in rows]
