"""What makes an address one that is not written to, and what undoes it.

All of it runs within the caller's transaction, and may be repeated: a bounce counts once however often it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from models.addresses import listed_as
from models.enums import Channel, SuppressionReason
from models.repositories import bounces, suppressions
from models.settings import Settings
from models.suppressions import Bounce, DeadTarget, Source, Suppression

__all__ = [
    "Bounce",
    "DeadTarget",
    "Suppression",
    "drop_dead",
    "lift",
    "note_arrival",
    "note_bounce",
    "note_bounces",
    "suppress",
]

#: Words in a provider's reason that say: the person told the carrier or the vendor to stop. No bounce then.
#: https://www.twilio.com/docs/api/errors/21610, https://docs.aws.amazon.com/sns/latest/api/API_Publish.html
_STOPPED = ("21610", "optedout", "opted_out", "opted out")


async def note_bounce(connection: AsyncConnection, bounce: Bounce, *, settings: Settings) -> None:
    """Keeps a bounce. A hard one suppresses the address at once, soft ones when there are too many in a row."""
    await note_bounces(connection, [bounce], settings=settings)


async def note_bounces(connection: AsyncConnection, found: Sequence[Bounce], *, settings: Settings) -> None:
    """Keeps many bounces, with one statement a table."""
    if not found:
        return
    new = await bounces.add(connection, found)
    fresh = [bounce for bounce in found if bounce.event_id in new]
    often = await _too_often(connection, [bounce for bounce in fresh if not bounce.is_permanent], settings)
    dead = [bounce for bounce in fresh if bounce.is_permanent or _target(bounce) in often]
    await suppress(connection, [_of_bounce(bounce, Source.PROVIDER) for bounce in dead])


async def _too_often(
    connection: AsyncConnection, soft: Sequence[Bounce], settings: Settings
) -> set[tuple[Channel, str]]:
    since: dict[tuple[Channel, str], datetime] = {}
    for bounce in soft:
        begin = bounce.occurred_at - timedelta(days=settings.soft_bounce_days)
        since[_target(bounce)] = min(begin, since.get(_target(bounce), begin))
    counted = await bounces.count_soft(connection, since) if since else {}
    return {target for target, count in counted.items() if count >= settings.soft_bounce_threshold}


def _target(bounce: Bounce) -> tuple[Channel, str]:
    return bounce.channel, listed_as(bounce.channel, bounce.address)


async def note_arrival(connection: AsyncConnection, targets: Sequence[tuple[Channel, str]]) -> None:
    """A message arrived at these addresses: soft bounces from before are no longer in a row."""
    if targets:
        await bounces.let_go(connection, sorted(set(targets)))


async def suppress(connection: AsyncConnection, entries: Sequence[Suppression]) -> None:
    """Nothing goes to these addresses any more, in so far as the reason says so."""
    if entries:
        await suppressions.add(connection, entries)


async def lift(connection: AsyncConnection, entries: Sequence[Suppression]) -> None:
    """Takes back suppressions by address, channel, category and reason. Other reasons stay."""
    if not entries:
        return
    await suppressions.remove(connection, entries)
    let_go = {(entry.channel, entry.address) for entry in entries if entry.reason is SuppressionReason.BOUNCED}
    await note_arrival(connection, sorted(let_go))


async def drop_dead(connection: AsyncConnection, targets: Sequence[DeadTarget]) -> None:
    """Attempts to e-mail addresses and phone numbers that a provider answered with `target_dead`."""
    if not targets:
        return
    found = [_bounce(target) for target in targets if not _is_stopped(target)]
    new = await bounces.add(connection, found) if found else set()
    entries = [_of_bounce(bounce, Source.SEND) for bounce in found if bounce.event_id in new]
    entries += [_stopped(target) for target in targets if _is_stopped(target)]
    await suppress(connection, entries)


def _is_stopped(target: DeadTarget) -> bool:
    reason = (target.reason or "").lower()
    return target.channel is Channel.SMS and any(word in reason for word in _STOPPED)


def _stopped(target: DeadTarget) -> Suppression:
    return Suppression(
        channel=target.channel,
        address=target.address,
        reason=SuppressionReason.OPTED_OUT,
        created_at=target.occurred_at,
        source=Source.SEND,
        note=target.reason,
    )


def _bounce(target: DeadTarget) -> Bounce:
    return Bounce(
        event_id=f"send:{target.delivery_id}/{target.generation}/{target.attempt}",
        address=target.address,
        channel=target.channel,
        is_permanent=True,
        reason=target.reason,
        category=target.category,
        delivery_id=target.delivery_id,
        occurred_at=target.occurred_at,
    )


def _of_bounce(bounce: Bounce, source: Source) -> Suppression:
    return Suppression(
        channel=bounce.channel,
        address=bounce.address,
        reason=SuppressionReason.BOUNCED,
        created_at=bounce.occurred_at,
        source=source,
        note=bounce.reason,
    )
