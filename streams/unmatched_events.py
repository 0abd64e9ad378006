"""The room where providers' events wait that match no delivery yet.

A callback can be faster than the row of the attempt that it is about; it can also be about a message that another
system sent by the same account. So an event is looked at again after two seconds, then after twice as long each time,
for a day. Then it is given up: counted, and forgotten but for its id.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from mode import Service
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.errors import Refused
from models.provider_events import ProviderEvent
from models.repositories import waiting_events as table
from models.repositories.provider_events import forget_old
from models.repositories.waiting_events import Found, WaitingEvent
from models.requests import parse
from models.settings import Settings
from streams.agents import settling
from streams.domain.event_addresses import AddressActs, with_category
from streams.domain.provider_events import Judged
from streams.errors import is_passing
from streams.intake import Publishes
from streams.metrics import PROVIDER_EVENTS, PROVIDER_EVENTS_GIVEN_UP
from streams.queues import UNMATCHED_EVENTS
from streams.watchdog import progress_of

log = structlog.get_logger()

NAME = UNMATCHED_EVENTS
_BATCH_EVENTS = 500
_PAUSE_SECONDS = 1.0
_PAUSE_AFTER_ERROR_SECONDS = 2.0
_TIDY_SECONDS = 600.0
_TIDY_EVENTS = 5_000


@dataclass(slots=True)
class _Look:
    """What a look at waiting events comes to."""

    matched: list[Judged] = field(default_factory=list)
    postponed: list[WaitingEvent] = field(default_factory=list)
    given_up: list[WaitingEvent] = field(default_factory=list)
    #: Those that wait no more, so that the lists learn all of them.
    closed: list[Judged] = field(default_factory=list)

    def add(self, row: WaitingEvent, judged: Judged) -> None:
        if judged.match is None and not row.is_over:
            self.postponed.append(row)
            return
        self.closed.append(judged)
        if judged.match is None:
            self.given_up.append(row)
        else:
            self.matched.append(judged)


class UnmatchedEvents(Service):  # type: ignore[misc]
    """Looks at waiting events when they are due; any number of processes share them.

    What a match changes is committed first and told then; a row that was not marked as told comes up again.
    """

    def __init__(self, *, engine: AsyncEngine, publisher: Publishes, settings: Settings, **service: Any) -> None:
        super().__init__(**service)
        self._engine = engine
        self._publisher = publisher
        self._settings = settings
        self._tidy_at = 0.0

    @Service.task  # type: ignore[untyped-decorator]
    async def _run(self) -> None:
        progress = progress_of(NAME)
        with progress.working():
            while not self.should_stop:
                progress.beat()
                try:
                    looked_at = await self.look()
                    await self._tidy()
                except Exception as error:
                    if not is_passing(error):
                        raise
                    log.warning("waiting: a server is away", room=NAME, error=type(error).__name__)
                    with progress.holding(type(error).__name__):
                        await self.sleep(_PAUSE_AFTER_ERROR_SECONDS)
                else:
                    if looked_at < _BATCH_EVENTS:
                        await self.sleep(_PAUSE_SECONDS)

    async def look(self) -> int:
        """Looks at one batch of events that are due; returns how many there were."""
        async with self._engine.begin() as connection:
            due = await table.take_due(connection, _BATCH_EVENTS)
            looked = await self._looked_at(connection, [row for row in due if row.effect is None])
        _count(looked)
        changed = [one for one in looked.matched if one.effect is not None]
        effects = {one.event.event_id: one.effect for one in changed if one.effect is not None}
        effects |= {row.event_id: row.effect for row in due if row.effect is not None}
        if effects:
            progress_of(NAME).beat()
            told = [record for effect in effects.values() for record in settling.records(effect)]
            await self._publisher.send_all(told)
            async with self._engine.begin() as connection:
                await table.close(connection, list(effects))
        return len(due)

    async def _looked_at(self, connection: AsyncConnection, rows: Sequence[WaitingEvent]) -> _Look:
        look, events = _Look(), {row.event_id: _event(row) for row in rows}
        waiting = [event for event in events.values() if event is not None]
        look.given_up += [row for row in rows if events[row.event_id] is None]
        if waiting:
            matches = await settling.find(connection, waiting)
            judged = await settling.settle(connection, waiting, matches)
            by_id = {row.event_id: row for row in rows}
            for one in judged:
                look.add(by_id[one.event.event_id], one)
        await settling.write_lists(connection, look.closed, _acts, settings=self._settings)
        await table.resolve(connection, [_found(one) for one in look.matched])
        await table.postpone(connection, look.postponed)
        await table.close(connection, [row.event_id for row in look.given_up])
        return look

    async def _tidy(self) -> None:
        """Now and then forgets events that nobody repeats any more."""
        if time.monotonic() < self._tidy_at:
            return
        async with self._engine.begin() as connection:
            forgotten = await forget_old(connection, limit=_TIDY_EVENTS)
        if forgotten < _TIDY_EVENTS:
            self._tidy_at = time.monotonic() + _TIDY_SECONDS


def _event(row: WaitingEvent) -> ProviderEvent | None:
    """The event that waits; None where this version of the service can't read it any more."""
    try:
        return parse(ProviderEvent, row.pending or b"")
    except Refused:
        return None


def _acts(judged: Judged) -> AddressActs:
    """What the lane left for later: it has done at once what needs no message."""
    return with_category(judged.event, judged.category, judged.delivery_id)


def _found(judged: Judged) -> Found:
    assert judged.match is not None, "only what was matched is resolved"
    return Found(event_id=judged.event.event_id, match=judged.match, effect=judged.effect)


def _count(looked: _Look) -> None:
    for one in looked.matched:
        result = "kept" if one.effect is None else "changed"
        PROVIDER_EVENTS.labels(one.event.provider, one.event.kind, result).inc()
    for provider, count in Counter(row.provider for row in looked.given_up).items():
        PROVIDER_EVENTS_GIVEN_UP.labels(provider).inc(count)
        log.warning("provider events given up: no delivery within a day", provider=provider, events=count)
