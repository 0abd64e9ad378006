"""The lane of providers' events: turns what vendors told into statuses, and into the lists of addresses.

One batch is one transaction and then one write to Kafka:

1. store: match the events, lock their notifications, leave out those that are stored already, write statuses, lists and
   the events themselves, each with the change that it made;
2. tell: `notification.status` and `notification.failed`, acknowledged by Kafka;
3. only then the source offsets.

A crash between 1 and 2 reads the same records again. They find their events stored, under their own partition and
offset, and tell what is stored there once more, with the same event ids. A vendor's repeat is another record, so it
finds the event under a foreign offset, and does nothing.

What matches no delivery waits in its row (`streams.unmatched_events`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.enums import Stage
from models.errors import Refused
from models.provider_events import ProviderEvent
from models.repositories import dead_letters as index
from models.repositories import provider_events as table
from models.repositories.provider_events import NewEvent
from models.requests import parse
from models.settings import Settings
from streams.agents import settling
from streams.batches import Finish
from streams.dead_letters import Burial, unburied
from streams.domain.event_addresses import AddressActs, at_once, while_waiting, with_category
from streams.domain.provider_events import Judged
from streams.errors import halved, persistently
from streams.intake import Publishes
from streams.metrics import DEAD, PROVIDER_EVENTS
from streams.records import Incoming, Outgoing
from streams.turns import in_turns

LANE = "provider-events"


@dataclass(frozen=True, slots=True)
class Heard:
    """A record that could be read."""

    record: Incoming
    event: ProviderEvent

    @property
    def source(self) -> tuple[int, int]:
        """Where it lies on its topic."""
        return self.record.partition, self.record.offset


@dataclass(slots=True)
class Results:
    """What a batch causes beyond the database."""

    records: list[Outgoing] = field(default_factory=list)
    burials: list[Burial] = field(default_factory=list)
    #: Provider, kind and result of each event.
    counts: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, other: Results) -> None:
        """Takes over all that another one causes."""
        self.records += other.records
        self.burials += other.burials
        self.counts += other.counts

    def clear(self) -> None:
        """Begins anew."""
        self.records.clear()
        self.burials.clear()
        self.counts.clear()


class ProviderEventStage:
    """What the lane does with a batch."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        publisher: Publishes,
        settings: Settings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._publisher = publisher
        self._settings = settings
        self._clock = clock

    async def __call__(self, records: Sequence[Incoming]) -> None:
        """Finishes a batch: when this returns, all that it caused is durable."""
        finish = await self.begin(records)
        await finish()

    async def begin(self, records: Sequence[Incoming]) -> Finish:
        """Stores what was heard; returns what tells of it."""
        results = Results()

        async def store_all() -> None:
            results.clear()
            heard = await self._read(records, results)
            await halved(heard, partial(self._store, results), partial(self._refused, results))

        await persistently(store_all, lane=LANE)
        for labels in results.counts:
            PROVIDER_EVENTS.labels(*labels).inc()

        async def finish() -> None:
            await persistently(lambda: self._tell(results), lane=LANE)

        return finish

    async def _read(self, records: Sequence[Incoming], results: Results) -> list[Heard]:
        """Decodes a batch; what can't be read is buried. Of repeats in one batch the first one counts."""
        heard: dict[str, Heard] = {}
        async for record in in_turns(records):
            try:
                event = parse(ProviderEvent, record.value or b"")
            except Refused as error:
                results.burials.append(self._burial(record, "invalid_provider_event", str(error)))
                continue
            if event.event_id in heard:
                results.counts.append((event.provider, event.kind, "repeated"))
            else:
                heard[event.event_id] = Heard(record, event)
        return list(heard.values())

    async def _store(self, results: Results, heard: Sequence[Heard]) -> None:
        if not heard:
            return
        caused = Results()
        async with self._engine.begin() as connection:
            matches = await settling.find(connection, [one.event for one in heard])
            # Known after the locks: what another process stored of the same deliveries meanwhile is seen.
            new = await self._without_known(connection, heard, caused)
            judged = await settling.settle(connection, [one.event for one in new], matches)
            await settling.write_lists(connection, judged, _acts, settings=self._settings)
            await table.add(connection, [_row(*pair) for pair in zip(new, judged, strict=True)])
        for one, came_to in zip(new, judged, strict=True):
            caused.counts.append((one.event.provider, one.event.kind, _result(came_to)))
            if came_to.effect is not None:
                caused.records += settling.records(came_to.effect, one.record.carried())
        results.add(caused)

    async def _without_known(self, connection: AsyncConnection, heard: Sequence[Heard], caused: Results) -> list[Heard]:
        known = await table.known(connection, [one.event.event_id for one in heard])
        for one in heard:
            stored = known.get(one.event.event_id)
            if stored is None:
                continue
            caused.counts.append((one.event.provider, one.event.kind, "repeated"))
            if stored.source == one.source and stored.effect is not None:
                caused.records += settling.records(stored.effect, one.record.carried())
        return [one for one in heard if one.event.event_id not in known]

    async def _refused(self, results: Results, heard: Heard) -> None:
        burial = self._burial(heard.record, "database_refused", "is refused by the database")
        event = heard.event
        results.burials.append(replace(burial, notification_id=event.notification_id, channel=event.channel))

    def _burial(self, record: Incoming, error_class: str, reason: str) -> Burial:
        return Burial(
            record=record,
            stage=Stage.PROVIDER_EVENT,
            error_class=error_class,
            error_reason=reason,
            failed_at=self._clock(),
        )

    async def _tell(self, results: Results) -> None:
        burials = results.burials
        if burials:
            async with self._engine.connect() as connection:
                burials = await unburied(connection, burials)
        written = await self._publisher.send_all([*(burial.outgoing() for burial in burials), *results.records])
        if burials:
            places = zip(burials, written, strict=False)
            async with self._engine.begin() as connection:
                await index.add(connection, [burial.indexed(*place) for burial, place in places])
        for burial in burials:
            DEAD.labels(burial.stage, burial.error_class).inc()


def _acts(judged: Judged) -> AddressActs:
    if judged.match is None and judged.event.names_message:
        return while_waiting(judged.event)
    acts = at_once(judged.event)
    acts.add(with_category(judged.event, judged.category, judged.delivery_id))
    return acts


def _row(heard: Heard, judged: Judged) -> NewEvent:
    return NewEvent(
        event=heard.event,
        source=heard.source,
        match=judged.match,
        effect=judged.effect,
        waits=judged.match is None and heard.event.names_message,
    )


def _result(judged: Judged) -> str:
    if judged.effect is not None:
        return "changed"
    return "waiting" if judged.match is None and judged.event.names_message else "kept"
