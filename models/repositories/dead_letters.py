"""The index of the dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.repositories.arrays import arrays, given


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One row of the index: where a failed record came from, why it failed, where it lies."""

    id: str
    source_topic: str
    source_partition: int
    source_offset: int
    stage: str
    error_class: str
    error_reason: str
    notification_id: UUID | None
    channel: str | None
    attempts: int
    failed_at: datetime
    #: How often what failed had been replayed before.
    generation: int = 0


_COLUMNS = {
    "id": "text",
    "source_topic": "text",
    "source_partition": "integer",
    "source_offset": "bigint",
    "stage": "text",
    "error_class": "text",
    "error_reason": "text",
    "notification_id": "uuid",
    "channel": "text",
    "attempts": "integer",
    "failed_at": "timestamptz",
    "generation": "smallint",
}
_NAMES = ", ".join(_COLUMNS)

_INSERT = text(
    f"""
    INSERT INTO delivery_failures ({_NAMES}) SELECT {_NAMES} FROM {given("g", _COLUMNS)}
    ON CONFLICT DO NOTHING
    """  # noqa: S608  only names from this file
)

_SOURCE = {"topic": "text", "partition": "integer", "offset_": "bigint"}

_INDEXED = text(
    f"""
    SELECT source_topic, source_partition, source_offset FROM delivery_failures
    JOIN {given("g", _SOURCE)} ON source_topic = topic AND source_partition = partition AND source_offset = offset_
    """  # noqa: S608
)


async def add(connection: AsyncConnection, rows: Sequence[DeadLetter]) -> None:
    """Indexes dead letters; a source record that is in the index already stays there once."""
    await connection.execute(_INSERT, arrays(rows, _COLUMNS))


async def indexed(connection: AsyncConnection, sources: Sequence[tuple[str, int, int]]) -> set[tuple[str, int, int]]:
    """Those of the (topic, partition, offset) that are in the index."""
    rows = await connection.execute(
        _INDEXED,
        {
            "topic": [topic for topic, _, _ in sources],
            "partition": [partition for _, partition, _ in sources],
            "offset_": [offset for _, _, offset in sources],
        },
    )
    return {(row.source_topic, row.source_partition, row.source_offset) for row in rows}
