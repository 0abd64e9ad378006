"""Looking for dead letters in their index, and counting them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.repositories.dead_letters import DeadLetter


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which dead letters; what is None doesn't matter. `topic` carries no prefix and is where they came from."""

    ids: tuple[str, ...] | None = None
    stage: str | None = None
    error_class: str | None = None
    channel: str | None = None
    topic: str | None = None
    notification_id: UUID | None = None
    since: datetime | None = None
    #: Not as late as this.
    until: datetime | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return not self.given()

    def given(self) -> dict[str, Any]:
        """What does matter, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        return {name: _plain(value) for name, value in self.given().items()}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """From what `document` made."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in document.items() if name in known}
        for name in ("since", "until"):
            if name in values:
                values[name] = datetime.fromisoformat(values[name])
        if "ids" in values:
            values["ids"] = tuple(values["ids"])
        if "notification_id" in values:
            values["notification_id"] = UUID(values["notification_id"])
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLetter(DeadLetter):
    """A row of the index, and what became of the letter."""

    replayed_at: datetime | None
    replay_id: UUID | None
    #: Why it can't be replayed, where that is known.
    unreplayable: str | None


COLUMNS = ", ".join(field.name for field in fields(StoredLetter))

_CONDITIONS = {
    "ids": "id = ANY(:ids)",
    "stage": "stage = :stage",
    "error_class": "error_class = :error_class",
    "channel": "channel = :channel",
    "topic": "source_topic = :topic",
    "notification_id": "notification_id = :notification_id",
    "since": "failed_at >= :since",
    "until": "failed_at < :until",
}


def condition(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """The WHERE clause for these letters, without the word, and its parameters."""
    given = wanted.given()
    if "ids" in given:
        given["ids"] = list(given["ids"])
    return " AND ".join(["true", *(_CONDITIONS[name] for name in given)]), given


_FAILED_AT = text("SELECT failed_at FROM delivery_failures WHERE id = :id")


async def find(
    connection: AsyncConnection, wanted: Wanted, *, limit: int, before: str | None = None
) -> list[StoredLetter]:
    """The newest dead letters that are wanted, newest first; those behind `before` in that order, if it is given."""
    where, values = condition(wanted)
    if before is not None:
        failed_at = (await connection.execute(_FAILED_AT, {"id": before})).scalar_one_or_none()
        if failed_at is None:
            return []
        where += " AND (failed_at, id) < (:before_at, :before)"
        values |= {"before_at": failed_at, "before": before}
    statement = f"SELECT {COLUMNS} FROM delivery_failures WHERE {where} ORDER BY failed_at DESC, id DESC LIMIT :limit"  # noqa: S608  only names from this file
    rows = await connection.execute(text(statement), {**values, "limit": limit})
    return [stored(row) for row in rows]


async def get(connection: AsyncConnection, identifier: str) -> StoredLetter | None:
    """One row of the index."""
    found = await find(connection, Wanted(ids=(identifier,)), limit=1)
    return found[0] if found else None


def stored(row: Any) -> StoredLetter:
    """A row with COLUMNS as a value."""
    return StoredLetter(**{field.name: getattr(row, field.name) for field in fields(StoredLetter)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many letters there are of one kind."""

    error_class: str
    channel: str | None
    source_topic: str
    letters: int
    already_replayed: int
    #: Replayed as often as the ceiling allows, or more.
    too_often: int
    #: Found to be such that they can't be replayed.
    unreplayable: int


async def count(connection: AsyncConnection, wanted: Wanted, *, ceiling: int) -> list[Count]:
    """The letters that are wanted, counted by error class, channel and topic; the largest groups first."""
    where, values = condition(wanted)
    statement = f"""
        SELECT error_class, channel, source_topic, count(*) AS letters,
               count(*) FILTER (WHERE replayed_at IS NOT NULL) AS already_replayed,
               count(*) FILTER (WHERE replayed_at IS NULL AND unreplayable IS NULL AND generation >= :ceiling)
                   AS too_often,
               count(*) FILTER (WHERE replayed_at IS NULL AND unreplayable IS NOT NULL) AS unreplayable
        FROM delivery_failures WHERE {where}
        GROUP BY error_class, channel, source_topic ORDER BY letters DESC, error_class, channel, source_topic
    """  # noqa: S608  only names from this file
    rows = await connection.execute(text(statement), {**values, "ceiling": ceiling})
    return [Count(**row._mapping) for row in rows]


async def walk(
    connection: AsyncConnection, wanted: Wanted, *, limit: int, after: tuple[int, int] = (-1, -1)
) -> list[StoredLetter]:
    """The letters that are wanted behind this (partition, offset), in the order of their topic."""
    where, values = condition(wanted)
    statement = f"""
        SELECT {COLUMNS} FROM delivery_failures
        WHERE {where} AND (dlq_partition, dlq_offset) > (:partition, :offset)
        ORDER BY dlq_partition, dlq_offset LIMIT :limit
    """  # noqa: S608  only names from this file
    values |= {"partition": after[0], "offset": after[1], "limit": limit}
    return [stored(row) for row in await connection.execute(text(statement), values)]
