"""Replays of dead letters: asking for one, its letters batch by batch, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.enums import Channel, Status
from models.ids import fresh
from models.replays import Stands
from models.repositories.arrays import given
from models.repositories.dead_letter_search import COLUMNS, StoredLetter, Wanted, condition, stored


class State(StrEnum):
    """How far a replay is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    #: by whoever ran it; what is left is still there for another replay
    STOPPED = "stopped"
    #: of something that nobody foresaw; the log says what
    FAILED = "failed"


class Runner(StrEnum):
    """Who does a replay."""

    WORKERS = "workers"
    COMMAND = "command"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReplay:
    """What somebody asks for."""

    who: str
    reason: str
    wanted: Wanted
    rate: int
    force: bool
    runner: Runner
    matched: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReplay:
    """A replay's row."""

    id: UUID
    who: str
    reason: str
    wanted: Wanted
    rate: int
    force: bool
    state: State
    matched: int
    replayed: int
    skipped: Mapping[str, int]
    cursor_partition: int
    cursor_offset: int
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    #: Until its next batch.
    wait_seconds: float


_ASK = text(
    f"""
    INSERT INTO dead_letter_replays
        (id, who, reason, wanted, rate, force, runner, state, matched, next_at, created_at, updated_at)
    VALUES (:id, :who, :reason, CAST(:wanted AS jsonb), :rate, :force, :runner, '{State.WAITING}', :matched,
            clock_timestamp(), clock_timestamp(), clock_timestamp())
    """  # noqa: S608  only names from this file
)


async def ask(connection: AsyncConnection, new: NewReplay) -> UUID:
    """Stores a replay, for whoever is to run it."""
    identifier = fresh()
    values = {
        "id": identifier,
        "who": new.who,
        "reason": new.reason,
        "wanted": orjson.dumps(new.wanted.document()).decode(),
        "rate": new.rate,
        "force": new.force,
        "runner": new.runner.value,
        "matched": new.matched,
    }
    await connection.execute(_ASK, values)
    return identifier


_SELECT = """
    SELECT r.*, GREATEST(0, extract(epoch FROM r.next_at - clock_timestamp()))::float8 AS wait_seconds
    FROM dead_letter_replays AS r
"""
_TAKE_ANY = text(
    f"{_SELECT} WHERE finished_at IS NULL AND runner = '{Runner.WORKERS}'"
    " ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED"
)
_TAKE_ONE = text(f"{_SELECT} WHERE id = :id AND finished_at IS NULL FOR UPDATE")
_GET = text(f"{_SELECT} WHERE id = :id")
_PAGE = text(
    f"""
    {_SELECT} WHERE CAST(:before AS timestamptz) IS NULL OR (created_at, id) < (:before, CAST(:before_id AS uuid))
    ORDER BY created_at DESC, id DESC LIMIT :limit
    """
)


async def take(connection: AsyncConnection, replay_id: UUID | None = None) -> StoredReplay | None:
    """Locks this replay, or the one of the workers whose batch is due first and which no other process has."""
    values = {} if replay_id is None else {"id": replay_id}
    row = (await connection.execute(_TAKE_ONE if values else _TAKE_ANY, values)).one_or_none()
    return None if row is None else _replay(row)


async def get(connection: AsyncConnection, replay_id: UUID) -> StoredReplay | None:
    """One replay."""
    row = (await connection.execute(_GET, {"id": replay_id})).one_or_none()
    return None if row is None else _replay(row)


async def page(
    connection: AsyncConnection, *, limit: int, before: tuple[datetime, UUID] | None = None
) -> list[StoredReplay]:
    """Replays, the newest first."""
    moment, identifier = before or (None, None)
    rows = await connection.execute(_PAGE, {"limit": limit, "before": moment, "before_id": identifier})
    return [_replay(row) for row in rows]


def _replay(row: Any) -> StoredReplay:
    values = {field.name: getattr(row, field.name) for field in fields(StoredReplay)}
    return StoredReplay(**values | {"wanted": Wanted.of(row.wanted), "state": State(row.state)})


async def letters(connection: AsyncConnection, replay: StoredReplay, *, limit: int) -> list[StoredLetter]:
    """Locks the next letters of a replay, in the order of their topic; none that came after it was asked for.

    Another replay that wants one of them waits, and then sees what became of it.
    """
    where, values = condition(replay.wanted)
    statement = f"""
        SELECT {COLUMNS} FROM delivery_failures
        WHERE {where} AND indexed_at <= :asked_at AND (dlq_partition, dlq_offset) > (:partition, :offset)
        ORDER BY dlq_partition, dlq_offset LIMIT :limit FOR UPDATE
    """  # noqa: S608
    values |= {
        "asked_at": replay.created_at,
        "partition": replay.cursor_partition,
        "offset": replay.cursor_offset,
        "limit": limit,
    }
    return [stored(row) for row in await connection.execute(text(statement), values)]


_REPLAYED = text(
    "UPDATE delivery_failures SET replayed_at = clock_timestamp(), replay_id = :replay_id WHERE id = ANY(:ids)"
)
_UNREPLAYABLE = text(
    f"""
    UPDATE delivery_failures AS f SET unreplayable = g.why FROM {given("g", {"id": "text", "why": "text"})}
    WHERE f.id = g.id
    """  # noqa: S608
)


async def mark_replayed(connection: AsyncConnection, replay_id: UUID, ids: Sequence[str]) -> None:
    """Letters whose records are back on their topics."""
    await connection.execute(_REPLAYED, {"replay_id": replay_id, "ids": list(ids)})


async def mark_unreplayable(connection: AsyncConnection, reasons: Mapping[str, str]) -> None:
    """Letters that never can be replayed, and why."""
    await connection.execute(_UNREPLAYABLE, {"id": list(reasons), "why": list(reasons.values())})


_PROGRESS = text(
    f"""
    UPDATE dead_letter_replays
    SET state = '{State.RUNNING}', replayed = replayed + :replayed, skipped = CAST(:skipped AS jsonb),
        cursor_partition = :partition, cursor_offset = :offset, updated_at = clock_timestamp(),
        next_at = GREATEST(next_at, clock_timestamp() - CAST(:slack AS interval)) + CAST(:pause AS interval)
    WHERE id = :id
    """  # noqa: S608
)
#: How much of the rate a late batch may make up for.
_SLACK = timedelta(milliseconds=250)


async def progress(
    connection: AsyncConnection, replay: StoredReplay, *, replayed: int, skipped: Mapping[str, int], last: StoredLetter
) -> None:
    """Moves a replay behind its letter `last`; the next batch waits as long as its rate asks for."""
    total = {why: skipped.get(why, 0) + replay.skipped.get(why, 0) for why in {*skipped, *replay.skipped}}
    partition, offset = last.id.split("-")
    values = {
        "id": replay.id,
        "replayed": replayed,
        "skipped": orjson.dumps(total, option=orjson.OPT_SORT_KEYS).decode(),
        "partition": int(partition),
        "offset": int(offset),
        "slack": _SLACK,
        "pause": timedelta(seconds=replayed / replay.rate),
    }
    await connection.execute(_PROGRESS, values)


_END = text(
    """
    UPDATE dead_letter_replays SET state = :state, finished_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE id = :id AND finished_at IS NULL
    """
)


async def end(connection: AsyncConnection, replay_id: UUID, state: State) -> None:
    """Ends a replay."""
    await connection.execute(_END, {"id": replay_id, "state": state.value})


_END_ABANDONED = text(
    f"""
    UPDATE dead_letter_replays
    SET state = '{State.STOPPED}', finished_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE finished_at IS NULL AND runner = '{Runner.COMMAND}'
      AND GREATEST(updated_at, next_at) < clock_timestamp() - CAST(:after AS interval)
    """  # noqa: S608
)


async def end_abandoned(connection: AsyncConnection, *, after: timedelta) -> None:
    """Ends the replays of commands that have not moved for so long: they were killed."""
    await connection.execute(_END_ABANDONED, {"after": after})


_STANDS = f"""
    SELECT d.delivery_id, d.notification_id, d.channel, d.generation, d.status, d.rank, EXISTS (
        SELECT FROM notification_deliveries AS other
        WHERE other.notification_id = d.notification_id AND other.status = '{Status.CANCELLED}'
    ) OR n.status = '{Status.CANCELLED}' AS is_cancelled
    FROM notification_deliveries AS d LEFT JOIN notifications AS n ON n.id = d.notification_id
"""  # noqa: S608
_OF_DELIVERIES = text(f"{_STANDS} WHERE d.delivery_id = ANY(:ids)")
_OF_NOTIFICATIONS = text(f"{_STANDS} WHERE d.notification_id = ANY(:ids)")


async def stand(connection: AsyncConnection, delivery_ids: Sequence[UUID]) -> dict[UUID, Stands]:
    """Where these deliveries stand now; those that have no row are absent."""
    rows = await connection.execute(_OF_DELIVERIES, {"ids": list(delivery_ids)})
    return {row.delivery_id: _stands(row) for row in rows}


async def channels(connection: AsyncConnection, notification_ids: Sequence[UUID]) -> dict[UUID, dict[Channel, Stands]]:
    """Where the deliveries of these notifications stand now, by channel; absent without any."""
    found: dict[UUID, dict[Channel, Stands]] = {}
    for row in await connection.execute(_OF_NOTIFICATIONS, {"ids": list(notification_ids)}):
        found.setdefault(row.notification_id, {})[Channel(row.channel)] = _stands(row)
    return found


def _stands(row: Any) -> Stands:
    return Stands(
        generation=row.generation, status=Status(row.status), rank=row.rank, is_cancelled=bool(row.is_cancelled)
    )
