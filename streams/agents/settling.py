"""What events do in the database, the same for the lane that hears them first and for the room where some wait.

Always in this order within one transaction: the locks of the notifications that the events name, as channel lanes take
them; then where their deliveries stand; then statuses, then the lists of addresses. So whoever comes second sees all
that the first one did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from models.events import FailedEvent
from models.provider_events import ProviderEvent
from models.repositories import deliveries
from models.repositories import provider_events as table
from models.repositories.notifications import lock
from models.settings import Settings
from models.standings import Effect, Match
from streams import suppression
from streams.domain.event_addresses import AddressActs, has_last_word
from streams.domain.provider_events import Judged, judge, told
from streams.records import CONTENT_TYPE, Headers, Outgoing
from streams.topics import FAILED, STATUS


async def find(connection: AsyncConnection, events: Sequence[ProviderEvent]) -> dict[str, Match]:
    """The deliveries of events, by event id, with their notifications locked until the transaction ends."""
    matches = await table.match(connection, events)
    if matches:
        await lock(connection, sorted({match.notification_id for match in matches.values()}))
    return matches


async def settle(
    connection: AsyncConnection, events: Sequence[ProviderEvent], matches: Mapping[str, Match]
) -> list[Judged]:
    """Writes the statuses that events give their deliveries; tells of each event what it came to."""
    standings = await table.standings(connection, (match.delivery_id for match in matches.values()))
    judged = judge(events, matches, standings)
    changes = [one.change for one in judged if one.change is not None]
    await deliveries.advance(connection, changes, is_locked=True)
    return judged


async def write_lists(
    connection: AsyncConnection,
    judged: Sequence[Judged],
    acts_of: Callable[[Judged], AddressActs],
    *,
    settings: Settings,
) -> None:
    """What a batch says of addresses; before its events are stored, so that what is stored was there before."""
    matched = [(one.event, one.match) for one in judged if one.match is not None]
    overruled = await table.overruled(connection, matched)
    acts = AddressActs()
    for one in judged:
        if one.event.event_id not in overruled:
            acts.add(acts_of(one))
    acts = has_last_word(acts)
    await suppression.note_arrival(connection, acts.arrivals)
    await suppression.note_bounces(connection, acts.bounces, settings=settings)
    await suppression.suppress(connection, acts.suppressed)
    await suppression.lift(connection, acts.lifted)


def records(effect: Effect, carried: Headers = ()) -> list[Outgoing]:
    """What others are told of a change."""
    return [
        Outgoing(
            FAILED if isinstance(event, FailedEvent) else STATUS,
            effect.user_id.encode(),
            event.value(),
            (CONTENT_TYPE, *carried),
        )
        for event in told(effect)
    ]
