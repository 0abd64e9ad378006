"""Deliveries: fan-out, claims, outcomes, and the one function that writes status."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.addresses import listed_as
from models.changes import Attempt, Change
from models.deliveries import Delivery
from models.enums import Outcome, Status, SuppressionReason
from models.repositories.arrays import arrays, given, same_once
from models.repositories.notifications import lock
from models.status import ENDED_RANK, PRECEDENCE, RANK, SENT_RANK

_NEW = {"delivery_id": "uuid", "notification_id": "uuid", "channel": "text", "segments": "smallint"}

_INSERT = text(
    f"""
    INSERT INTO notification_deliveries
        (delivery_id, notification_id, channel, segments, status, rank, generation, attempts, created_at, updated_at)
    SELECT delivery_id, notification_id, channel, segments,
        '{Status.ACCEPTED}', {RANK[Status.ACCEPTED]}, 0, 0, now(), now()
    FROM {given("g", _NEW)}
    ORDER BY delivery_id
    ON CONFLICT (delivery_id) DO NOTHING
    """  # noqa: S608  only names from this file
)


async def insert(
    connection: AsyncConnection,
    changes: Sequence[Change],
    channels: Sequence[str],
    segments: Sequence[int | None] | None = None,
) -> None:
    """Makes the rows of a fan-out, where they are not there yet. `segments` are those of each SMS."""
    rows = {
        "delivery_id": [change.delivery_id for change in changes],
        "notification_id": [change.notification_id for change in changes],
        "channel": same_once(list(channels)),
        "segments": same_once(list(segments or [None] * len(changes))),
    }
    await connection.execute(_INSERT, rows)


_CHANGE = {
    "delivery_id": "uuid",
    "status": "text",
    "rank": "smallint",
    "generation": "smallint",
    "reason": "text",
    "provider": "text",
    "provider_message_id": "text",
    "attempts": "smallint",
    "ambiguous": "boolean",
}

# A later attempt may write its own `retrying` over an earlier one's: same rank, more attempts.
_ADVANCE = text(
    f"""
    UPDATE notification_deliveries AS d
    SET status = g.status, rank = g.rank, generation = g.generation, reason = g.reason,
        provider = COALESCE(g.provider, d.provider),
        provider_message_id = COALESCE(g.provider_message_id, d.provider_message_id),
        attempts = g.attempts, ambiguous = d.ambiguous OR g.ambiguous, updated_at = now()
    FROM {given("g", _CHANGE)}
    WHERE d.delivery_id = g.delivery_id
      AND (d.generation, d.rank, d.attempts) < (g.generation, g.rank, g.attempts)
      AND (d.generation < g.generation OR d.rank < g.rank OR g.rank < {ENDED_RANK})
    RETURNING d.delivery_id
    """  # noqa: S608
)

_SPEAKS_FIRST = " ".join(f"WHEN '{status}' THEN {place}" for status, place in PRECEDENCE.items())

# An ended notification is not opened again by a delivery that was fanned out while it ended, only by a replayed one;
# a cancelled one by neither, and only a message that went out says otherwise.
# An open one does not go back: a throttled request that returned is fanned out, and stays `throttled` until its
# deliveries are further than `queued`. Replays are exempt: each delivery's is a new beginning.
_OVERALL = text(
    f"""
    UPDATE notifications AS n
    SET status = o.status, rank = o.rank, generation = o.generation, reason = o.reason, updated_at = now()
    FROM (
        SELECT DISTINCT ON (notification_id) notification_id, status, rank, generation, reason
        FROM notification_deliveries
        WHERE notification_id = ANY(:ids)
        ORDER BY notification_id, CASE status {_SPEAKS_FIRST} END
    ) AS o
    WHERE n.id = o.notification_id AND n.id = ANY(:ids) AND n.status <> o.status
      AND (n.rank < {ENDED_RANK} OR o.rank >= {ENDED_RANK} OR o.generation > 0)
      AND (n.status <> '{Status.CANCELLED}' OR o.rank >= {SENT_RANK})
      AND (n.rank >= {ENDED_RANK} OR n.rank <= o.rank OR n.generation > 0 OR o.generation > 0)
    """  # noqa: S608
)


async def advance(connection: AsyncConnection, changes: Sequence[Change], *, is_locked: bool = False) -> set[UUID]:
    """The one function that writes delivery statuses; the notifications follow theirs in the same transaction.

    Compare-and-set on (generation, rank): never backwards, and a repeat changes nothing. `is_locked` tells that this
    transaction holds the notifications' locks already.

    Returns:
        The ids of the deliveries that changed.
    """
    if not changes:
        return set()
    # Of two for one delivery the statement would take either, so only the later goes in.
    latest: dict[UUID, Change] = {}
    for change in sorted(changes, key=lambda change: (change.generation, change.rank, change.attempts)):
        latest[change.delivery_id] = change
    ordered = sorted(latest.values(), key=lambda change: change.delivery_id.int)
    notifications = list({change.notification_id for change in changes})
    if not is_locked:
        await lock(connection, notifications)
    result = await connection.execute(_ADVANCE, arrays(ordered, _CHANGE))
    changed = set(result.scalars())
    if changed:
        await connection.execute(_OVERALL, {"ids": notifications})
    return changed


#: Delivery id, generation, attempt.
AttemptKey = tuple[UUID, int, int]


class Claim(NamedTuple):
    """The answer to asking for an attempt. Exactly one of the four holds."""

    delivery_id: UUID
    generation: int
    attempt: int
    #: The attempt is ours to call; `takeovers` counts lost leases before us.
    won: bool = False
    takeovers: int = 0
    #: It was called already: its effects are due again, unless `is_copy`.
    finished: Attempt | None = None
    #: The attempt was another record's, which sees to its effects.
    is_copy: bool = False
    #: Why it must not be sent.
    forbidden: str | None = None
    #: Somebody has it, maybe since this very moment.
    is_leased: bool = False


_ASKED = {
    "delivery_id": "uuid",
    "notification_id": "uuid",
    "generation": "smallint",
    "attempt": "smallint",
    "user_id": "text",
    "channel": "text",
    "category": "text",
    "address": "text",
    "expires_at": "timestamptz",
    "source_partition": "integer",
    "source_offset": "bigint",
}

_STORED_OUTCOME = (
    "outcome",
    "provider",
    "provider_message_id",
    "reason",
    "retry_at",
    "finished_at",
    "takeovers",
    "remaining_devices",
    "reached_devices",
)

_DELIVERY_FIELDS = [name for name in _ASKED if name != "address" and not name.startswith("source_")]

# One statement, so that what forbids a send and the claim itself can't pass each other: a cancellation takes the
# notification's row FOR UPDATE and looks for claims; a claim takes it FOR KEY SHARE and looks for the cancellation.
_CLAIM = text(
    f"""
    WITH asked AS MATERIALIZED (
        SELECT * FROM {given("g", _ASKED)} ORDER BY delivery_id
    ), held AS MATERIALIZED (
        SELECT id, status, rank, generation FROM notifications
        WHERE id = ANY(:notification_id) ORDER BY id FOR KEY SHARE
    ), judged AS MATERIALIZED (
        SELECT a.*, COALESCE(CASE
            WHEN n.status = '{Status.CANCELLED}' THEN 'cancelled'
            WHEN d.generation > a.generation THEN 'superseded'
            WHEN d.generation = a.generation AND d.rank >= {SENT_RANK} THEN 'already_sent'
            WHEN d.generation = a.generation AND d.rank >= {ENDED_RANK} THEN d.status
            -- A replay, whose record may be here before its `queued` is.
            WHEN d.generation < a.generation AND d.rank >= {SENT_RANK} AND d.status <> '{Status.FAILED}'
                THEN 'already_sent'
            WHEN a.generation > 0 AND EXISTS (
                SELECT FROM notification_deliveries AS other
                WHERE other.notification_id = a.notification_id AND other.status = '{Status.CANCELLED}'
            ) THEN 'cancelled'
            WHEN a.expires_at <= now() THEN 'expired'
            WHEN c.transactional IS NOT TRUE
                AND COALESCE(p.categories -> a.category ->> a.channel, p.channels ->> a.channel) = 'false'
                THEN 'opted_out'
        END, (
            -- By name the only reason that transactional mail may ignore is the last one.
            SELECT min(u.reason) FROM unsubscribe_lists AS u
            WHERE u.address = a.address AND u.channel = a.channel AND u.category IN ('', a.category)
              AND (c.transactional IS NOT TRUE OR u.reason <> '{SuppressionReason.UNSUBSCRIBED}')
        ), CASE
            -- The delivery's row is read as it was when the statement began, the notification's as it is under
            -- the lock: one that ended meanwhile has no open delivery left.
            WHEN n.generation >= a.generation AND n.rank >= {ENDED_RANK}
                AND COALESCE(d.generation, a.generation) >= a.generation THEN 'ended'
            WHEN :is_bulk AND EXISTS (
                SELECT FROM category_pauses AS held_back
                WHERE held_back.category = a.category AND held_back.channel = a.channel
                  AND held_back.resumed_at IS NULL
            ) THEN 'paused'
        END) AS forbidden
        FROM asked AS a
        LEFT JOIN held AS n ON n.id = a.notification_id
        LEFT JOIN notification_deliveries AS d ON d.delivery_id = a.delivery_id
        LEFT JOIN notification_preferences AS p ON p.user_id = a.user_id
        LEFT JOIN notification_categories AS c ON c.key = a.category
    ), claimed AS (
        INSERT INTO delivery_logs AS l
            (delivery_id, generation, attempt, claimed_at, lease_until, source_partition, source_offset, takeovers)
        SELECT delivery_id, generation, attempt, clock_timestamp(), clock_timestamp() + :lease,
               source_partition, source_offset, 0
        FROM judged WHERE forbidden IS NULL ORDER BY delivery_id
        ON CONFLICT (delivery_id, generation, attempt) DO UPDATE
        SET lease_until = clock_timestamp() + :lease, takeovers = l.takeovers + 1,
            source_partition = EXCLUDED.source_partition, source_offset = EXCLUDED.source_offset
        WHERE l.outcome IS NULL AND l.lease_until < clock_timestamp()
        RETURNING l.delivery_id, l.generation, l.attempt, l.takeovers
    )
    SELECT delivery_id, generation, attempt, takeovers AS won_takeovers, NULL AS forbidden, NULL AS is_copy,
           {", ".join(f"NULL AS {name}" for name in _STORED_OUTCOME)}
    FROM claimed
    UNION ALL
    SELECT j.delivery_id, j.generation, j.attempt, NULL, j.forbidden,
           (l.source_partition, l.source_offset) <> (j.source_partition, j.source_offset),
           {", ".join(f"l.{name}" for name in _STORED_OUTCOME)}
    FROM judged AS j
    LEFT JOIN delivery_logs AS l USING (delivery_id, generation, attempt)
    WHERE (j.delivery_id, j.generation, j.attempt) NOT IN (SELECT delivery_id, generation, attempt FROM claimed)
    """  # noqa: S608
)


async def claim(
    connection: AsyncConnection,
    deliveries: Sequence[Delivery],
    *,
    lease: timedelta,
    sources: Sequence[tuple[int, int]] | None = None,
    is_bulk: bool = False,
) -> dict[AttemptKey, Claim]:
    """Asks for the attempts of a batch, in one statement that also reads what forbids each send.

    `sources` are the (partition, offset) of the records that ask. `is_bulk`: what a pause of its category holds back.

    Returns:
        An answer for each (delivery id, generation, attempt).
    """
    sources = sources or [(0, 0)] * len(deliveries)
    asked = {
        **arrays(deliveries, _DELIVERY_FIELDS),
        "address": same_once([delivery.to and listed_as(delivery.channel, delivery.to) for delivery in deliveries]),
        "source_partition": same_once([partition for partition, _ in sources]),
        "source_offset": same_once([offset for _, offset in sources]),
        "lease": lease,
        "is_bulk": is_bulk,
    }
    answers = map(_answer, await connection.execute(_CLAIM, asked))
    return {(claim.delivery_id, claim.generation, claim.attempt): claim for claim in answers}


def _answer(row: Any) -> Claim:
    delivery_id, generation, attempt, won_takeovers, forbidden, is_copy, *_ = row
    if won_takeovers is not None:
        return Claim(delivery_id, generation, attempt, won=True, takeovers=won_takeovers)
    if row.outcome is not None:
        return Claim(delivery_id, generation, attempt, finished=_attempt(row), is_copy=is_copy)
    if forbidden is not None:
        return Claim(delivery_id, generation, attempt, forbidden=forbidden)
    return Claim(delivery_id, generation, attempt, is_leased=True)


def _attempt(row: Any) -> Attempt:
    return Attempt(
        delivery_id=row.delivery_id,
        generation=row.generation,
        attempt=row.attempt,
        outcome=Outcome(row.outcome),
        provider=row.provider,
        provider_message_id=row.provider_message_id,
        reason=row.reason,
        retry_at=row.retry_at,
        finished_at=row.finished_at,
        takeovers=row.takeovers,
        remaining_devices=row.remaining_devices,
        reached_devices=row.reached_devices,
    )


_FINISHED = {
    "delivery_id": "uuid",
    "generation": "smallint",
    "attempt": "smallint",
    "outcome": "text",
    "provider": "text",
    "provider_message_id": "text",
    "reason": "text",
    "retry_at": "timestamptz",
    "finished_at": "timestamptz",
    "remaining_devices": "bigint",
    "reached_devices": "smallint",
}

_FINISH = text(
    f"""
    UPDATE delivery_logs AS l
    SET outcome = g.outcome, provider = g.provider, provider_message_id = g.provider_message_id,
        reason = g.reason, retry_at = g.retry_at, finished_at = g.finished_at,
        remaining_devices = g.remaining_devices, reached_devices = g.reached_devices
    FROM {given("g", _FINISHED)}
    WHERE l.delivery_id = g.delivery_id AND l.generation = g.generation AND l.attempt = g.attempt
      AND l.outcome IS NULL
    RETURNING l.delivery_id, l.generation, l.attempt
    """  # noqa: S608
)

_KEY = {name: _FINISHED[name] for name in ("delivery_id", "generation", "attempt")}

_STORED = text(
    f"""
    SELECT l.* FROM delivery_logs AS l JOIN {given("g", _KEY)} USING (delivery_id, generation, attempt)
    WHERE l.outcome IS NOT NULL
    """  # noqa: S608
)


async def finish(connection: AsyncConnection, attempts: Sequence[Attempt]) -> dict[AttemptKey, Attempt]:
    """Records the outcomes of claimed attempts. One that is there already stays: what it caused has been told.

    Returns:
        The attempts as they are now stored, by key.
    """
    ordered = sorted(attempts, key=lambda attempt: attempt.delivery_id.int)
    stored = {(one.delivery_id, one.generation, one.attempt): one for one in ordered}
    written = await connection.execute(_FINISH, arrays(ordered, _FINISHED))
    if written.rowcount < len(stored):
        others = stored.keys() - {(row.delivery_id, row.generation, row.attempt) for row in written}
        rows = await connection.execute(_STORED, arrays([stored[key] for key in others], _KEY))
        stored |= {(row.delivery_id, row.generation, row.attempt): _attempt(row) for row in rows}
    return stored


_RELEASED = {**_KEY, "takeovers": "smallint"}

# One that was taken over stays: the call before may have been made. Only its lease ends.
_RELEASE = text(
    f"""
    WITH given AS MATERIALIZED (
        SELECT * FROM {given("g", _RELEASED)}
    ), kept AS (
        UPDATE delivery_logs AS l SET lease_until = clock_timestamp(), takeovers = l.takeovers - 1
        FROM given AS g
        WHERE l.delivery_id = g.delivery_id AND l.generation = g.generation AND l.attempt = g.attempt
          AND l.outcome IS NULL AND l.takeovers = g.takeovers AND g.takeovers > 0
    )
    DELETE FROM delivery_logs AS l USING given AS g
    WHERE l.delivery_id = g.delivery_id AND l.generation = g.generation AND l.attempt = g.attempt
      AND l.outcome IS NULL AND l.takeovers = 0 AND g.takeovers = 0
    """  # noqa: S608
)


async def release(connection: AsyncConnection, claims: Sequence[tuple[AttemptKey, int]]) -> None:
    """Gives back claims that were not called, each with its count of takeovers; one that is no longer ours stays."""
    ordered = sorted(claims)
    columns = {
        "delivery_id": [key[0] for key, _ in ordered],
        "generation": [key[1] for key, _ in ordered],
        "attempt": [key[2] for key, _ in ordered],
        "takeovers": [takeovers for _, takeovers in ordered],
    }
    await connection.execute(_RELEASE, columns)
