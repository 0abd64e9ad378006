"""The request lanes: decode, store, decide, fan out.

One batch is one pass; a batch is repeated whole after a crash, and ids make the repeat harmless. The order of writes is
the promise: rows as `accepted`, then records acknowledged by Kafka, then `queued`, then the source offset. A row that
exists is no reason to skip the produce; `queued` or beyond is.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models import ids
from models.audience import Category, Person
from models.changes import Change
from models.enums import Channel, Priority, Stage, Status
from models.errors import Refused
from models.events import FailedEvent, StatusEvent
from models.replays import Stands
from models.repositories import audience, deliveries, notifications, outbox, replays
from models.repositories import dead_letters as index
from models.repositories.notifications import Known, OwnChange
from models.requests import MAX_REQUEST_BYTES, NotificationRequest, parse
from models.settings import Settings
from streams.batches import Finish
from streams.dead_letters import Burial, unburied
from streams.delays import FAR, delayed
from streams.directory import Directory
from streams.domain import attempts
from streams.domain.limits import FURTHEST_SECONDS, slot_ends_at
from streams.domain.planning import NO_CHANNEL, Planned, Renders, Surroundings, addresses, plan
from streams.domain.replays import Again, may_again, replay_headers, said_generation
from streams.errors import halved, is_refusal, persistently
from streams.intake import Publishes, new_notification, scheduled
from streams.metrics import DEAD, REQUESTS
from streams.rate_limits import Reservation
from streams.records import CONTENT_TYPE, Incoming, Outgoing
from streams.topics import FAILED, STATUS, request_topic, send_topic
from streams.turns import in_turns

#: The id of a postponed request that brought none, for its way back.
KNOWN_AS = "notification-id"
#: When the slot is that a throttled request has reserved, for its way back: it is not limited again.
SLOT_AT = "slot-at"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


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
class Asked:
    """A request that could be read, and what it is called."""

    record: Incoming
    request: NotificationRequest
    notification_id: UUID
    client: str
    fingerprint: bytes
    #: The slot that it reserved when it was throttled.
    slot_at: datetime | None = None
    #: Which replay from the dead letters it says it is; 0 for none.
    replay: int = 0
    #: What is to be planned anew for that replay.
    again: Again | None = None

    def does_more_than(self, same: Asked) -> bool:
        """Whether this one of two repeats may do something that the other may not."""
        return (self.slot_at is not None, self.replay) > (same.slot_at is not None, same.replay)


@dataclass(slots=True)
class Results:
    """All that a batch causes, gathered before anything is written."""

    records: list[Outgoing] = field(default_factory=list)
    planned: list[Planned] = field(default_factory=list)
    own: list[OwnChange] = field(default_factory=list)
    scheduled: list[outbox.Scheduled] = field(default_factory=list)
    #: By source: a record that fails on two channels is one dead letter.
    burials: dict[tuple[str, int, int], Burial] = field(default_factory=dict)

    def bury(self, burial: Burial) -> None:
        """Sends a record to the dead letters, for the first reason that is found."""
        self.burials.setdefault(burial.source, burial)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch whose rows are stored: what is to be written to Kafka now, and which dead letters are new."""

    results: Results
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
        self._publisher = publisher
        self._renderer = renderer
        self._directory = directory
        self._default_locale = settings.default_locale
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
        results = Results()
        asked = await self._read(records, results)
        if asked:
            await self._decide(priority, asked, results)
        async with self._engine.begin() as connection:
            return Prepared(results, await self._store(connection, results))

    async def _read(self, records: Sequence[Incoming], results: Results) -> list[Asked]:
        """Decodes a batch; what can't be read is buried. Of two bodies under one id the database's is the right one.

        Of repeats in one batch the one that comes back to its slot stays, or the latest replay: the others have nothing
        left to do.
        """
        asked: dict[tuple[UUID, bytes], Asked] = {}
        async for record in in_turns(records):
            try:
                one = self._ask(record)
            except Refused as error:
                results.bury(self._poison(record, "invalid_request", error))
                continue
            key = (one.notification_id, one.fingerprint)
            if key not in asked or one.does_more_than(asked[key]):
                asked[key] = one
        return list(asked.values())

    def _ask(self, record: Incoming) -> Asked:
        if record.value is None:
            raise Refused("body", "is empty")
        if len(record.value) > MAX_REQUEST_BYTES:
            raise Refused("body", f"is larger than {MAX_REQUEST_BYTES} bytes")
        request = parse(NotificationRequest, record.value)
        client = (record.header("client-id") or "kafka").replace("\x00", "")[:255]
        slot_at = _time(record.header(SLOT_AT))
        known_as, replay = self._id(record, request, client), said_generation(record)
        return Asked(record, request, known_as, client, request.fingerprint(), slot_at, replay)

    def _id(self, record: Incoming, request: NotificationRequest, client: str) -> UUID:
        if request.id is not None:
            return request.id
        known_as = record.header(KNOWN_AS)
        if known_as is not None and _UUID.fullmatch(known_as):
            return UUID(known_as)
        if request.idempotency_key is not None:
            return ids.from_idempotency_key(client, request.idempotency_key)
        return ids.from_record(self._cluster_id, record.topic, record.partition, record.offset, record.timestamp_ms)

    async def _decide(self, priority: Priority, asked: Sequence[Asked], results: Results) -> None:
        rows = {
            one.notification_id: new_notification(
                one.request, one.notification_id, client=one.client, priority=priority, fingerprint=one.fingerprint
            )
            for one in reversed(asked)
        }
        async with self._engine.begin() as connection:
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
            async with self._engine.connect() as connection:
                around = await self._surroundings(connection, ready) if ready else []
        async for one, surroundings in in_turns(zip(ready, around, strict=True)):
            self._plan(priority, one, known[one.notification_id], surroundings, results)

    async def _with_replays(
        self, connection: AsyncConnection, asked: Sequence[Asked], known: Mapping[UUID, Known]
    ) -> Sequence[Asked]:
        """The same, and of those that are replayed what may be planned anew."""
        replayed = {one.notification_id for one in asked if one.replay and known[one.notification_id].is_handed_on}
        if not replayed:
            return asked
        stand = await replays.channels(connection, sorted(replayed))
        return [
            replace(one, again=_again(one, known[one.notification_id], stand.get(one.notification_id)))
            if one.notification_id in replayed
            else one
            for one in asked
        ]

    def _is_due(self, priority: Priority, one: Asked, state: Known, results: Results) -> bool:
        """Whether the request is to be fanned out now; what becomes of the others goes into the results."""
        if state.fingerprint is not None and state.fingerprint != one.fingerprint:
            results.bury(self._conflict(one))
            return False
        # Who may write to the request topics can forge the header of a slot, and gains little: it counts only for what
        # waits already, and only for the same request to the letter. A repeat without it waits with the first one.
        comes_back = state.status is Status.THROTTLED and one.slot_at is not None
        if state.is_handed_on and not comes_back:
            REQUESTS.labels(priority, "repeat").inc()
            return False
        if state.status is Status.ACCEPTED:
            self._tell(one, state, Status.ACCEPTED, results)
        now = self._clock()
        if one.request.expires_at is not None and one.request.expires_at <= now:
            self._end(one, state, Status.EXPIRED, results)
            REQUESTS.labels(priority, "expired").inc()
            return False
        if one.request.send_at is not None and one.request.send_at > now:
            self._postpone(priority, one, state, one.request.send_at, results)
            REQUESTS.labels(priority, "scheduled").inc()
            return False
        if comes_back and one.slot_at is not None and one.slot_at > now:  # by a clock that is ahead of ours
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
        self._delay(priority, one, until, results, mark, known_as=lambda: uuid5(one.notification_id, name))

    def _throttle(self, priority: Priority, one: Asked, state: Known, slot_at: datetime, results: Results) -> None:
        """Sends it to its slot, once; one that ends before is told so then."""
        self._wait_for_slot(priority, one, state, slot_ends_at(slot_at, one.request.expires_at), results)
        self._end(one, state, Status.THROTTLED, results)
        REQUESTS.labels(priority, "throttled").inc()

    async def _surroundings(self, connection: AsyncConnection, asked: Sequence[Asked]) -> list[Surroundings]:
        people = await self._directory.people(connection, {one.request.user_id for one in asked})
        persons = [people.get(one.request.user_id) or Person(user_id=one.request.user_id) for one in asked]
        targets = addresses(zip((one.request for one in asked), persons, strict=True))
        unwanted = await audience.unsubscribed(connection, targets) if targets else set()
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
            self._end(one, state, Status.FAILED, results, reason=NO_CHANNEL)
            results.bury(self._failure(one, None, NO_CHANNEL))
        for each in planned:
            results.planned.append(each)
            self._fan_out(priority, one, each, results)
        REQUESTS.labels(priority, "planned").inc()

    def _fan_out(self, priority: Priority, one: Asked, planned: Planned, results: Results) -> None:
        """The records of one channel: the rendered delivery, or why there is none."""
        delivery, now = planned.delivery, self._clock()
        key = delivery.user_id.encode()
        if planned.value is not None:
            topic = send_topic(delivery.channel, priority)
            results.records.append(Outgoing(topic, key, planned.value, (CONTENT_TYPE, *one.record.carried())))
        if planned.status is Status.FAILED:
            failed = FailedEvent(
                event_id=ids.event_id(delivery.delivery_id, delivery.generation, 0, Status.FAILED),
                notification_id=delivery.notification_id,
                user_id=delivery.user_id,
                channel=delivery.channel,
                timestamp=now,
                error=planned.reason or "failed",
                retry_count=0,
                metadata=delivery.metadata,
            )
            results.records.append(Outgoing(FAILED, key, failed.value()))
            results.bury(self._failure(one, planned, planned.reason or "failed"))
        told = attempts.status_event(delivery, planned.status, now, reason=planned.reason)
        results.records.append(Outgoing(STATUS, key, told.value()))

    def _postpone(self, priority: Priority, one: Asked, state: Known, send_at: datetime, results: Results) -> None:
        self._delay(priority, one, send_at, results, known_as=lambda: one.notification_id)
        if state.status is Status.ACCEPTED:
            self._end(one, state, Status.SCHEDULED, results)

    def _delay(
        self,
        priority: Priority,
        one: Asked,
        due_at: datetime,
        results: Results,
        *marks: tuple[str, bytes],
        known_as: Callable[[], UUID],
    ) -> None:
        """Brings the request back to its lane when it is due. `known_as` tells its id among the schedules."""
        now = self._clock()
        again = Outgoing(
            request_topic(priority),
            one.request.user_id.encode(),
            one.record.value,
            (
                CONTENT_TYPE,
                ("client-id", one.client.encode()),
                (KNOWN_AS, str(one.notification_id).encode()),
                *marks,
                *replay_headers(one.record),
                *one.record.carried(),
            ),
        )
        if due_at - now > FAR:
            results.scheduled.append(scheduled(again, known_as(), due_at))
        else:
            results.records.append(delayed(again, due_at, now=now))

    def _end(self, one: Asked, state: Known, status: Status, results: Results, *, reason: str | None = None) -> None:
        """A status of the notification's own, which no delivery tells."""
        results.own.append(OwnChange(id=one.notification_id, status=status, generation=state.generation, reason=reason))
        self._tell(one, state, status, results, reason=reason)
        if status is Status.FAILED:
            failed = FailedEvent(
                event_id=ids.event_id(one.notification_id, state.generation, 0, status),
                notification_id=one.notification_id,
                user_id=one.request.user_id,
                channel=None,
                timestamp=self._clock(),
                error=reason or "failed",
                retry_count=0,
                metadata=one.request.metadata,
            )
            results.records.append(Outgoing(FAILED, one.request.user_id.encode(), failed.value()))

    def _tell(self, one: Asked, state: Known, status: Status, results: Results, *, reason: str | None = None) -> None:
        event = StatusEvent(
            event_id=ids.event_id(one.notification_id, state.generation, 0, status),
            notification_id=one.notification_id,
            user_id=one.request.user_id,
            status=status,
            timestamp=state.created_at if status is Status.ACCEPTED else self._clock(),
            reason=reason,
        )
        results.records.append(Outgoing(STATUS, one.request.user_id.encode(), event.value()))

    def _poison(self, record: Incoming, error_class: str, error: Refused) -> Burial:
        return Burial(
            record=record,
            stage=Stage.REQUEST,
            error_class=error_class,
            error_reason=str(error),
            failed_at=self._clock(),
        )

    def _conflict(self, one: Asked) -> Burial:
        return Burial(
            record=one.record,
            stage=Stage.REQUEST,
            error_class="id_conflict",
            error_reason="id: is taken by a request with another body",
            failed_at=self._clock(),
            notification_id=one.notification_id,
        )

    def _failure(self, one: Asked, planned: Planned | None, reason: str) -> Burial:
        return Burial(
            record=one.record,
            stage=Stage.REQUEST,
            error_class=reason.split(":", maxsplit=1)[0],
            error_reason=reason,
            failed_at=self._clock(),
            notification_id=one.notification_id,
            channel=planned.delivery.channel if planned else None,
        )

    async def _refused(self, record: Incoming) -> None:
        """Buries the one record of a batch that the database does not take."""
        results = Results()
        burial = self._poison(record, "database_refused", Refused("body", "is refused by the database"))
        with contextlib.suppress(Refused):
            burial = replace(burial, notification_id=self._ask(record).notification_id)
        results.bury(burial)
        async with self._engine.connect() as connection:
            burials = await unburied(connection, list(results.burials.values()))
        await self._publish(Prepared(results, burials))

    async def _store(self, connection: AsyncConnection, results: Results) -> list[Burial]:
        """The rows of the fan-out; returns what is not among the dead letters yet."""
        if results.planned:
            channels = [each.delivery.channel for each in results.planned]
            await deliveries.insert(connection, _changes(results), channels)
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
            await deliveries.advance(connection, _changes(results))
        for burial in burials:
            DEAD.labels(burial.stage, burial.error_class).inc()


def _again(one: Asked, state: Known, stand: Mapping[Channel, Stands] | None) -> Again | None:
    if state.fingerprint is not None and state.fingerprint != one.fingerprint:
        return None
    return may_again(one.replay, status=state.status, generation=state.generation, stand=stand)


def _changes(results: Results) -> list[Change]:
    return [attempts.change(each.delivery, each.status, reason=each.reason) for each in results.planned]


def _time(text: str | None) -> datetime | None:
    """A time that stands in a header; None for what is none, or has no offset, or no calendar has in UTC."""
    try:
        found = datetime.fromisoformat(text or "")
        return found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
