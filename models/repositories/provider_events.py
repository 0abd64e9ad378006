"""What providers told: matched to deliveries, kept once, and looked at again while it matches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models import ids
from models.enums import Channel, EventKind, Status
from models.provider_events import ProviderEvent
from models.repositories.arrays import given
from models.standings import Effect, Match, Standing

#: How long an event waits for its delivery.
PATIENCE = timedelta(hours=24)
#: How long events are kept, so that a repeat is known and a timeline is whole; vendors repeat for three days at most.
KEPT = timedelta(days=30)
#: Until the first look at an event that matched nothing.
FIRST_WAIT = timedelta(seconds=2)
#: More of what a vendor says is not kept.
_MOST_RAW_BYTES = 16 * 1024

_BY_ID = text(
    "SELECT delivery_id, notification_id, channel FROM notification_deliveries WHERE delivery_id = ANY(:delivery_ids)"
)
# A vendor's id stands for one message; should it come twice, the later attempt is meant.
_BY_MESSAGE = text(
    """
    SELECT DISTINCT ON (l.provider, l.provider_message_id)
           l.provider, l.provider_message_id, l.delivery_id, l.generation, l.attempt, d.notification_id, d.channel
    FROM delivery_logs AS l JOIN notification_deliveries AS d USING (delivery_id)
    WHERE l.provider_message_id = ANY(:messages) AND l.provider_message_id IS NOT NULL
    ORDER BY l.provider, l.provider_message_id, l.finished_at DESC
    """
)


async def match(connection: AsyncConnection, events: Sequence[ProviderEvent]) -> dict[str, Match]:
    """The deliveries that events are about, by event id: by delivery, else notification and channel, else message id.

    The message id also tells the generation and the attempt where the event doesn't.
    """
    candidates = {event.event_id: _named(event) for event in events}
    wanted = sorted({one for named in candidates.values() for one in named})
    rows = (await connection.execute(_BY_ID, {"delivery_ids": wanted})).all() if wanted else []
    there = {(row.delivery_id, row.channel): row.notification_id for row in rows}
    found: dict[str, Match] = {}
    for event in events:
        for delivery_id in candidates[event.event_id]:
            notification_id = there.get((delivery_id, event.channel))
            if notification_id is not None:
                found[event.event_id] = Match(delivery_id=delivery_id, notification_id=notification_id)
                break
    unsure = [one for one in events if one.event_id not in found or one.generation is None]
    return found | await _by_message(connection, unsure, found)


def _named(event: ProviderEvent) -> list[UUID]:
    named = [] if event.delivery_id is None else [event.delivery_id]
    if event.notification_id is not None:
        named.append(ids.delivery_id(event.notification_id, event.channel))
    return named


async def _by_message(
    connection: AsyncConnection, events: Sequence[ProviderEvent], found: Mapping[str, Match]
) -> dict[str, Match]:
    messages = sorted({event.provider_message_id for event in events if event.provider_message_id is not None})
    if not messages:
        return {}
    rows = await connection.execute(_BY_MESSAGE, {"messages": messages})
    sent = {(row.provider, row.provider_message_id, row.channel): row for row in rows}
    matches: dict[str, Match] = {}
    for event in events:
        row = sent.get((event.provider, event.provider_message_id, event.channel))
        before = found.get(event.event_id)
        if row is not None and (before is None or before.delivery_id == row.delivery_id):
            matches[event.event_id] = Match(
                delivery_id=row.delivery_id,
                notification_id=row.notification_id,
                generation=row.generation,
                attempt=row.attempt,
            )
    return matches


def _uuid(value: UUID) -> UUID:
    """The driver's own class of UUIDs is one that the encoder of events does not take."""
    return UUID(int=value.int)


_STANDINGS = text(
    """
    SELECT d.delivery_id, d.notification_id, n.user_id, d.channel, n.category, n.metadata, d.status, d.rank,
           d.generation, d.attempts, d.provider, d.provider_message_id
    FROM notification_deliveries AS d JOIN notifications AS n ON n.id = d.notification_id
    WHERE d.delivery_id = ANY(:delivery_ids)
    """
)


async def standings(connection: AsyncConnection, delivery_ids: Iterable[UUID]) -> dict[UUID, Standing]:
    """Where deliveries stand. To be asked under the locks of their notifications."""
    wanted = sorted(set(delivery_ids))
    rows = (await connection.execute(_STANDINGS, {"delivery_ids": wanted})).all() if wanted else []
    return {
        row.delivery_id: Standing(
            delivery_id=_uuid(row.delivery_id),
            notification_id=_uuid(row.notification_id),
            user_id=row.user_id,
            channel=Channel(row.channel),
            category=row.category,
            metadata=row.metadata,
            status=Status(row.status),
            rank=row.rank,
            generation=row.generation,
            attempts=row.attempts,
            provider=row.provider,
            provider_message_id=row.provider_message_id,
        )
        for row in rows
    }


@dataclass(frozen=True, slots=True)
class Known:
    """An event that is stored: the (partition, offset) that brought it, and what it did."""

    source: tuple[int, int]
    effect: Effect | None


#: The columns of `effect_of`.
EFFECT = """
    e.event_id, e.delivery_id, e.notification_id, n.user_id, e.channel, n.metadata, e.status, e.generation, e.attempt,
    e.provider, e.reason, e.occurred_at
"""
_KNOWN = text(
    f"""
    SELECT {EFFECT}, e.source_partition, e.source_offset
    FROM provider_events AS e LEFT JOIN notifications AS n ON n.id = e.notification_id
    WHERE e.event_id = ANY(:event_ids)
    """  # noqa: S608  only names from this file
)


async def known(connection: AsyncConnection, event_ids: Sequence[str]) -> dict[str, Known]:
    """Those events that are stored already."""
    rows = await connection.execute(_KNOWN, {"event_ids": list(event_ids)})
    return {row.event_id: Known((row.source_partition, row.source_offset), effect_of(row)) for row in rows}


def effect_of(row: Any) -> Effect | None:
    """What a row of these columns did, where it did anything."""
    if row.status is None:
        return None
    return Effect(
        delivery_id=_uuid(row.delivery_id),
        notification_id=_uuid(row.notification_id),
        user_id=row.user_id,
        channel=Channel(row.channel),
        metadata=row.metadata,
        status=Status(row.status),
        generation=row.generation,
        attempt=row.attempt,
        provider=row.provider,
        reason=row.reason,
        at=row.occurred_at,
    )


_WISH = {
    "event_id": "text",
    "delivery_id": "uuid",
    "notification_id": "uuid",
    "occurred_at": "timestamptz",
    "opposite": "text",
}
# Vendors tell whole seconds: of two wishes in one second the one that came last holds.
_OVERRULED = text(
    f"""
    SELECT g.event_id FROM {given("g", _WISH)}
    WHERE EXISTS (
        SELECT FROM provider_events AS e
        WHERE e.notification_id = g.notification_id AND e.delivery_id = g.delivery_id AND e.kind = g.opposite
          AND e.occurred_at > g.occurred_at
    )
    """  # noqa: S608
)
_OPPOSITE = {
    EventKind.UNSUBSCRIBED: EventKind.RESUBSCRIBED,
    EventKind.RESUBSCRIBED: EventKind.UNSUBSCRIBED,
}


async def overruled(connection: AsyncConnection, wishes: Sequence[tuple[ProviderEvent, Match]]) -> set[str]:
    """The ids of those (un)subscribes whose person has said the opposite since, of the same message."""
    wishes = [(event, match_) for event, match_ in wishes if event.kind in _OPPOSITE]
    if not wishes:
        return set()
    columns = {
        "event_id": [event.event_id for event, _ in wishes],
        "delivery_id": [match_.delivery_id for _, match_ in wishes],
        "notification_id": [match_.notification_id for _, match_ in wishes],
        "occurred_at": [event.occurred_at for event, _ in wishes],
        "opposite": [str(_OPPOSITE[event.kind]) for event, _ in wishes],
    }
    return {row.event_id for row in await connection.execute(_OVERRULED, columns)}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event as it is first stored. `waits`: it has matched nothing, and may yet."""

    event: ProviderEvent
    source: tuple[int, int]
    match: Match | None
    effect: Effect | None
    waits: bool


_NEW = {
    "event_id": "text",
    "provider": "text",
    "channel": "text",
    "kind": "text",
    "occurred_at": "timestamptz",
    "source_partition": "integer",
    "source_offset": "bigint",
    "delivery_id": "uuid",
    "notification_id": "uuid",
    "generation": "smallint",
    "attempt": "smallint",
    "provider_message_id": "text",
    "reason": "text",
    "is_permanent": "boolean",
    "status": "text",
    "raw": "text",
    "pending": "text",
}
_PLAIN = ", ".join(name for name in _NEW if name not in ("raw", "pending"))

_ADD = text(
    f"""
    INSERT INTO provider_events ({_PLAIN}, raw, pending, received_at, retry_at, give_up_at)
    SELECT {_PLAIN}, CAST(raw AS jsonb), CAST(pending AS jsonb), now(),
           CASE WHEN pending IS NOT NULL THEN now() + CAST(:first_wait AS interval) END,
           CASE WHEN pending IS NOT NULL THEN now() + CAST(:patience AS interval) END
    FROM {given("g", _NEW)}
    ORDER BY event_id
    ON CONFLICT (event_id) DO NOTHING
    """  # noqa: S608
)


async def add(connection: AsyncConnection, rows: Sequence[NewEvent]) -> None:
    """Stores events; one that is there stays as it is."""
    columns: dict[str, list[Any]] = {name: [] for name in _NEW}
    for row in rows:
        for name, value in _values(row).items():
            columns[name].append(value)
    if rows:
        await connection.execute(_ADD, {**columns, "first_wait": FIRST_WAIT, "patience": PATIENCE})


def _values(row: NewEvent) -> dict[str, Any]:
    event, match_, effect = row.event, row.match, row.effect
    return {
        "event_id": event.event_id,
        "provider": event.provider,
        "channel": str(event.channel),
        "kind": str(event.kind),
        "occurred_at": event.occurred_at,
        "source_partition": row.source[0],
        "source_offset": row.source[1],
        "delivery_id": match_ and match_.delivery_id,
        "notification_id": match_ and match_.notification_id,
        **told_as(match_, effect),
        "provider_message_id": event.provider_message_id,
        "reason": event.reason,
        "is_permanent": event.is_permanent,
        "raw": _raw(event),
        "pending": _pending(event) if row.waits else None,
    }


def told_as(match_: Match | None, effect: Effect | None) -> dict[str, Any]:
    """Generation, attempt and status: those that the effect was told under, where there is one."""
    named = effect or match_
    return {
        "generation": named and named.generation,
        "attempt": named and named.attempt,
        "status": effect and str(effect.status),
    }


def _raw(event: ProviderEvent) -> str:
    encoded = orjson.dumps(event.raw)
    return encoded.decode() if len(encoded) <= _MOST_RAW_BYTES else "{}"


def _pending(event: ProviderEvent) -> str:
    """The event as it waits; its `raw` has a column of its own."""
    return orjson.dumps(event.model_dump(mode="python", exclude={"raw"}, exclude_defaults=True)).decode()


_FORGET = text(
    """
    DELETE FROM provider_events WHERE event_id IN (
        SELECT event_id FROM provider_events
        WHERE received_at < now() - CAST(:kept AS interval) AND retry_at IS NULL
        ORDER BY received_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    """
)


async def forget_old(connection: AsyncConnection, *, limit: int, kept: timedelta = KEPT) -> int:
    """Deletes events that nobody repeats any more; returns how many."""
    return (await connection.execute(_FORGET, {"kept": kept, "limit": limit})).rowcount
