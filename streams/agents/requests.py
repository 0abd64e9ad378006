"""The request lanes: decode, store, decide, fan out.

One batch is one pass; a batch is repeated whole after a crash, and ids make the repeat harmless. The order of writes is
the promise: rows as `accepted`, then records acknowledged by Kafka, then `queued`, then the source offset. A row that
exists is no reason to skip the produce; `queued` or beyond is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.audience import Category, Person
from models.changes import Change
from models.enums import Channel, Priority, Status
from models.errors import Refused
from models.replays import Stands
from models.repositories import audience, deliveries, notifications, outbox, replays
from models.repositories import dead_letters as index
from models.repositories.notifications import Known
from models.settings import Settings
from streams.agents.asked import SLOT_AT, Asked, ask
from streams.agents.caused import Results
from streams.batches import Finish
from streams.dead_letters import Burial, unburied
from streams.directory import Directory
from streams.domain import attempts
from streams.domain.limits import FURTHEST_SECONDS, slot_ends_at
from streams.domain.planning import NO_CHANNEL, Renders, Surroundings, addresses, plan
from streams.domain.replays import Again, may_again
from streams.domain.unsubscribe import UnsubscribeLinks
from streams.errors import halved, is_refusal, persistently
from streams.intake import Publishes, new_notification
from streams.metrics import DEAD, REQUESTS
from streams.rate_limits import Reservation
from streams.records import Incoming
from streams.turns import in_turns


class Reserves(Protocol):
    """The part of the limits that the request lanes need."""

    def is_limited(self, category: str) -> bool:
        """Whether people may get only so much of a category."""

    async def reserve(self, asked: Sequence[Reservation]) -> list[float]:
        """The seconds until each one's slot; 0 where it may go now."""


class Unlimited:
    """No limits at all."""

    def is_limited(self, category: str) -> bool:
        """Never."""
        return False

    async def reserve(self, asked: Sequence[Reservation]) -> list[float]:
        """Now."""
        return [0.0] * len(asked)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch whose rows are stored: what is to be written to Kafka now, and which dead letters are new."""

    results: Results
    changes: Sequence[Change]
    burials: Sequence[Burial]


class RequestStage:
    """What the request lanes do with a batch. One for all lanes of a process."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        publisher: Publishes,
        renderer: Renders,
        directory: Directory,
        settings: Settings,
        cluster_id: str,
        limits: Reserves | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        #: Where each statement is its own transaction: what a batch stores before Kafka has it, a repeat finds.
        self._each = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._publisher = publisher
        self._renderer = renderer
        self._directory = directory
        self._default_locale = settings.default_locale
        self._links = UnsubscribeLinks.of(settings)
        self._cluster_id = cluster_id
        self._limits = limits or Unlimited()
        self._clock = clock

    async def __call__(self, priority: Priority, records: Sequence[Incoming]) -> None:
        """Finishes a batch: when this returns, all that it caused is durable."""
        finish = await self.begin(priority, records)
        await finish()

    async def begin(self, priority: Priority, records: Sequence[Incoming]) -> Finish:
        """Stores and decides; returns what hands it on."""
        lane = f"requests-{priority}"
        parts: list[Prepared] = []

        async def prepare(part: Sequence[Incoming]) -> None:
            parts.append(await self._prepare(priority, part))

        async def prepare_all() -> None:
            parts.clear()
            await halved(records, prepare, self._refused)

        async def publish_all() -> None:
            for part in parts:
                await self._publish(part)

        async def finish() -> None:
            try:
                await persistently(publish_all, lane=lane)
            except Exception as error:
                if not is_refusal(error):
                    raise
                await persistently(one_by_one, lane=lane)

        async def one_by_one() -> None:
            """Where the database refuses what follows from a batch: its records by halves, each to its end."""

            async def process(part: Sequence[Incoming]) -> None:
                await self._publish(await self._prepare(priority, part))

            await halved(records, process, self._refused)

        await persistently(prepare_all, lane=lane)
        return finish

    async def _prepare(self, priority: Priority, records: Sequence[Incoming]) -> Prepared:
        results = Results(self._clock)
        asked = await self._read(records, results)
        if asked:
            await self._decide(priority, asked, results)
        changes = [attempts.change(each.delivery, each.status, reason=each.reason) for each in results.planned]
        async with self._each.connect() as connection:
            return Prepared(results, changes, await self._store(connection, results, changes))

    async def _read(self, records: Sequence[Incoming], results: Results) -> list[Asked]:
        """Decodes a batch; what can't be read is buried. Of two bodies under one id the database's is the right one.

        Of repeats in one batch the one that comes back to its slot stays, or the latest replay: the others have nothing
        left to do.
        """
        asked: dict[tuple[UUID, bytes], Asked] = {}
        async for record in in_turns(records):
            try:
                one = ask(record, cluster_id=self._cluster_id)
            except Refused as error:
                results.bury(results.poison(record, "invalid_request", error))
                continue
            key = (one.notification_id, one.fingerprint)
            first = asked.setdefault(key, one)
            if first is not one and one.does_more_than(first):
                asked[key] = one
        return list(asked.values())

    async def _decide(self, priority: Priority, asked: Sequence[Asked], results: Results) -> None:
        rows = {
            one.notification_id: new_notification(
                one.request, one.notification_id, client=one.client, priority=priority, fingerprint=one.fingerprint
            )
            for one in reversed(asked)
        }
        async with self._each.connect() as connection:
            known = await notifications.accept(connection, list(rows.values()))
            asked = await self._with_replays(connection, asked, known)
            ready = [
                one
                for one in asked
                if one.again is not None or self._is_due(priority, one, known[one.notification_id], results)
            ]
            limited = [one for one in ready if self._is_limited(one, known[one.notification_id])]
            around = await self._surroundings(connection, ready) if ready and not limited else []
        if limited:  # Redis is asked while no transaction is open
            ready = await self._within_limits(priority, ready, limited, known, results)
            async with self._each.connect() as connection:
                around = await self._surroundings(connection, ready) if ready else []
        async for one, surroundings in in_turns(zip(ready, around, strict=True)):
            self._plan(priority, one, known[one.notification_id], surroundings, results)
        for result, count in results.decided.items():
            REQUESTS.labels(priority, result).inc(count)

    async def _with_replays(
        self, connection: AsyncConnection, asked: Sequence[Asked], known: Mapping[UUID, Known]
    ) -> Sequence[Asked]:
        """The same, and of those that are replayed what may be planned anew."""
        replayed = {one.notification_id for one in asked if one.replay and known[one.notification_id].is_handed_on}
        if not replayed:
            return asked
        stand = await replays.channels(connection, sorted(replayed))
        return [
            one._replace(again=_again(one, known[one.notification_id], stand.get(one.notification_id)))
            if one.notification_id in replayed
            else one
            for one in asked
        ]

    def _is_due(self, priority: Priority, one: Asked, state: Known, results: Results) -> bool:
        """Whether the request is to be fanned out now; what becomes of the others goes into the results."""
        if state.fingerprint is not None and state.fingerprint != one.fingerprint:
            results.bury(results.conflict(one))
            return False
        # Who may write to the request topics can forge the header of a slot, and gains little: it counts only for what
        # waits already, and only for the same request to the letter. A repeat without it waits with the first one.
        comes_back = state.status is Status.THROTTLED and one.slot_at is not None
        if state.is_handed_on and not comes_back:
            results.decided["repeat"] += 1
            return False
        if state.status is Status.ACCEPTED:
            results.tell(one, state, Status.ACCEPTED)
        is_timed = one.request.expires_at or one.request.send_at or one.slot_at
        return not is_timed or self._is_time(priority, one, state, results)

    def _is_time(self, priority: Priority, one: Asked, state: Known, results: Results) -> bool:
        """Whether its time has come, and is not over."""
        now = self._clock()
        if one.request.expires_at is not None and one.request.expires_at <= now:
            results.end(one, state, Status.EXPIRED)
            results.decided["expired"] += 1
            return False
        if one.request.send_at is not None and one.request.send_at > now:
            self._postpone(priority, one, state, one.request.send_at, results)
            results.decided["scheduled"] += 1
            return False
        if state.status is Status.THROTTLED and one.slot_at is not None and one.slot_at > now:
            # By a clock that is ahead of ours.
            self._wait_for_slot(priority, one, state, one.slot_at, results)
            return False
        return True

    def _is_limited(self, one: Asked, state: Known) -> bool:
        if one.again is not None and one.slot_at is not None:
            return False
        return state.status is not Status.THROTTLED and self._limits.is_limited(one.request.category)

    async def _within_limits(
        self,
        priority: Priority,
        ready: Sequence[Asked],
        limited: Sequence[Asked],
        known: Mapping[UUID, Known],
        results: Results,
    ) -> list[Asked]:
        """Reserves a slot for each request under a limit; returns those that need not wait."""
        waits = await self._limits.reserve(
            [Reservation(one.notification_id, one.request.user_id, one.request.category) for one in limited]
        )
        now = self._clock()
        waiting = {one.notification_id: wait for one, wait in zip(limited, waits, strict=True) if wait > 0}
        for one in limited:
            if one.notification_id in waiting:
                wait_seconds = min(waiting[one.notification_id], FURTHEST_SECONDS)
                slot_at = now + timedelta(seconds=wait_seconds)
                self._throttle(priority, one, known[one.notification_id], slot_at, results)
        return [one for one in ready if one.notification_id not in waiting]

    def _wait_for_slot(self, priority: Priority, one: Asked, state: Known, until: datetime, results: Results) -> None:
        mark = (SLOT_AT, until.isoformat().encode())
        # Not the notification's id: a schedule for its `send_at` may be there still, about to be deleted.
        name = f"{Status.THROTTLED}/{state.generation}"
        results.delay(priority, one, until, mark, known_as=lambda: uuid5(one.notification_id, name))

    def _throttle(self, priority: Priority, one: Asked, state: Known, slot_at: datetime, results: Results) -> None:
        """Sends it to its slot, once; one that ends before is told so then."""
        self._wait_for_slot(priority, one, state, slot_ends_at(slot_at, one.request.expires_at), results)
        results.end(one, state, Status.THROTTLED)
        results.decided["throttled"] += 1

    async def _surroundings(self, connection: AsyncConnection, asked: Sequence[Asked]) -> list[Surroundings]:
        people = await self._directory.people(connection, {one.request.user_id for one in asked})
        persons = [people.get(one.request.user_id) or Person(user_id=one.request.user_id) for one in asked]
        targets = addresses(zip((one.request for one in asked), persons, strict=True))
        unwanted = await audience.unsubscribed(connection, targets) if targets else {}
        categories = await self._directory.categories(connection)
        keys = {one.request.template_id for one in asked if one.request.template_id is not None}
        templates = await self._directory.templates(connection, keys)
        return [
            Surroundings(
                person=person,
                category=categories.get(one.request.category) or Category(key=one.request.category),
                unsubscribed=unwanted,
                templates=templates.get(one.request.template_id or "", ()),
                default_locale=self._default_locale,
                renderer=self._renderer,
                links=self._links,
            )
            for one, person in zip(asked, persons, strict=True)
        ]

    def _plan(self, priority: Priority, one: Asked, state: Known, around: Surroundings, results: Results) -> None:
        if one.again is not None:
            state = replace(state, generation=one.again.generation)
        planned = plan(
            one.request, one.notification_id, around, generation=state.generation, created_at=state.created_at
        )
        if one.again is not None and one.again.channels is not None:
            planned = [each for each in planned if each.delivery.channel in one.again.channels]
        elif not planned:
            results.end(one, state, Status.FAILED, reason=NO_CHANNEL)
            results.bury(results.failure(one, None, NO_CHANNEL))
        for each in planned:
            results.planned.append(each)
            results.fan_out(priority, one, each)
        results.decided["planned"] += 1

    def _postpone(self, priority: Priority, one: Asked, state: Known, send_at: datetime, results: Results) -> None:
        results.delay(priority, one, send_at, known_as=lambda: one.notification_id)
        if state.status is Status.ACCEPTED:
            results.end(one, state, Status.SCHEDULED)

    async def _refused(self, record: Incoming) -> None:
        """Buries the one record of a batch that the database does not take."""
        results = Results(self._clock)
        burial = results.poison(record, "database_refused", Refused("body", "is refused by the database"))
        with contextlib.suppress(Refused):
            burial = replace(burial, notification_id=ask(record, cluster_id=self._cluster_id).notification_id)
        results.bury(burial)
        async with self._engine.connect() as connection:
            burials = await unburied(connection, list(results.burials.values()))
        await self._publish(Prepared(results, (), burials))

    async def _store(self, connection: AsyncConnection, results: Results, changes: Sequence[Change]) -> list[Burial]:
        """The rows of the fan-out; returns what is not among the dead letters yet."""
        if changes:
            channels = [each.delivery.channel for each in results.planned]
            segments = [each.segments for each in results.planned]
            await deliveries.insert(connection, changes, channels, segments)
        return await unburied(connection, list(results.burials.values()))

    async def _publish(self, prepared: Prepared) -> None:
        """Records first; the statuses that make a repeat skip them only when Kafka has them."""
        results, burials = prepared.results, prepared.burials
        letters = [burial.outgoing() for burial in burials]
        written = await self._publisher.send_all([*letters, *results.records])
        async with self._engine.begin() as connection:
            if burials:
                places = zip(burials, written, strict=False)
                await index.add(connection, [burial.indexed(*place) for burial, place in places])
            if results.scheduled:
                await outbox.schedule(connection, results.scheduled)
            if results.own:
                await notifications.advance(connection, results.own)
            await deliveries.advance(connection, prepared.changes)
        for burial in burials:
            DEAD.labels(burial.stage, burial.error_class).inc()


def _again(one: Asked, state: Known, stand: Mapping[Channel, Stands] | None) -> Again | None:
    if state.fingerprint is not None and state.fingerprint != one.fingerprint:
        return None
    return may_again(one.replay, status=state.status, generation=state.generation, stand=stand)
