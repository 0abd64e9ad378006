"""What a channel lane does with deliveries: claim, call the provider, record, tell.

Each step is made durable before the next, and repeated in place while a server is away, so that a call that was made is
recorded and not made again:

1. claim: one statement for many that also reads what forbids each send;
2. call: by the provider chain (`streams.channels.chain`);
3. record: outcomes and statuses in bulk, one transaction;
4. tell: events, retries and dead letters, acknowledged by Kafka;
5. only then the source offsets.

A crash between 3 and 4 finds the outcome at the next claim and tells it again. A crash between 2 and 3 leaves a claim
without outcome: its lease ends, and the attempt is made once more, marked ambiguous. `streams.agents.sending` says what
runs beside what.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncEngine

from models.changes import Attempt, Change
from models.deliveries import Delivery
from models.enums import Channel, Outcome, Priority, Stage, Status
from models.errors import Refused
from models.events import FailedEvent, SentEvent
from models.repositories import dead_letters as index
from models.repositories import deliveries as table
from models.repositories import outbox
from models.repositories.contact_records import forget_dead
from models.repositories.deliveries import AttemptKey, Claim
from models.repositories.notifications import lock
from models.requests import parse
from models.settings import RetryPolicy, Settings
from models.suppressions import DeadTarget
from streams.dead_letters import Burial, unburied
from streams.delays import FAR, delayed
from streams.domain import attempts, retry
from streams.domain.attempts import Effects, effects
from streams.errors import halved, persistently
from streams.intake import Publishes, scheduled
from streams.metrics import DEAD, HELD_BACK, RETRIES
from streams.people_versions import NoVersions, TellsOfChanges
from streams.providers.base import DeliveryResult, FanOut
from streams.records import CONTENT_TYPE, Incoming, Outgoing
from streams.suppression import drop_dead
from streams.topics import FAILED, SENT, STATUS, send_topic
from streams.turns import in_turns

#: A claim that forbids a send with one of these gives the delivery that status; the rest has it already.
_FORBIDDEN = {
    "expired": Status.EXPIRED,
    "cancelled": Status.CANCELLED,
    "opted_out": Status.SUPPRESSED,
    "unsubscribed": Status.SUPPRESSED,
    "suppressed": Status.SUPPRESSED,
    "bounced": Status.SUPPRESSED,
    "complained": Status.SUPPRESSED,
    "manual": Status.SUPPRESSED,
}
#: The word of a claim for bulk whose category is held back; nothing of the delivery changes.
_PAUSED = "paused"
#: What could not be asked for some devices is asked again after so long at the least.
PUT_OFF = timedelta(seconds=1)
#: After that it asks again, and some of it a little later, so that it doesn't come back all at once.
PAUSE = timedelta(minutes=10)
_SPREAD = timedelta(minutes=5)


class Taken(NamedTuple):
    """A record of a send topic that could be read."""

    record: Incoming
    delivery: Delivery

    @property
    def key(self) -> AttemptKey:
        """The attempt it asks for."""
        return self.delivery.delivery_id, self.delivery.generation, self.delivery.attempt


class Called(NamedTuple):
    """A call that ended."""

    taken: Taken
    attempt: Attempt


@dataclass(slots=True)
class Results:
    """All that a batch causes."""

    changes: list[Change] = field(default_factory=list)
    records: list[Outgoing] = field(default_factory=list)
    burials: list[Burial] = field(default_factory=list)
    #: Retries that are too far away for the delay topics.
    scheduled: list[outbox.Scheduled] = field(default_factory=list)

    def copy(self) -> Results:
        """Another one with the same in it."""
        return Results(list(self.changes), list(self.records), list(self.burials), list(self.scheduled))

    def add(self, other: Results) -> None:
        """Takes over all that another one causes."""
        self.changes += other.changes
        self.records += other.records
        self.burials += other.burials
        self.scheduled += other.scheduled


class DeliveryStage:
    """The steps of a channel lane. One per lane."""

    def __init__(
        self,
        *,
        channel: Channel,
        priority: Priority,
        engine: AsyncEngine,
        publisher: Publishes,
        settings: Settings,
        people: TellsOfChanges | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._channel = channel
        #: Told of devices that are forgotten; other channels have none.
        self._people = people if people is not None and channel is Channel.PUSH else NoVersions()
        self._priority = priority
        self._engine = engine
        #: For the claim, which is one statement and so its own transaction.
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._publisher = publisher
        self._policy: RetryPolicy = settings.retry_policy(channel)
        self._lease = settings.claim_lease
        self._clock = clock
        self._lane = f"send-{channel}-{priority}"

    def read(self, record: Incoming, results: Results) -> Taken | None:
        """Decodes a record; None for one that can't be read, which is buried."""
        try:
            delivery = parse(Delivery, record.value or b"")
            if delivery.channel is not self._channel:
                raise Refused("channel", "is not this topic's")
        except Refused as error:
            results.burials.append(self._burial(record, None, "invalid_delivery", str(error)))
            return None
        return Taken(record, delivery)

    async def claim(self, taken: Sequence[Taken], results: Results) -> dict[AttemptKey, Claim]:
        """Asks for the attempts, again and again while the database is away. Without an answer: refused, and buried."""
        claims: dict[AttemptKey, Claim] = {}

        async def ask(part: Sequence[Taken]) -> None:
            claims.update(await persistently(lambda: self._ask(part), lane=self._lane))

        async def refused(one: Taken) -> None:
            reason = "is refused by the database"
            results.burials.append(self._burial(one.record, one.delivery, "database_refused", reason))

        if taken:
            await halved(taken, ask, refused)
        return claims

    async def _ask(self, taken: Sequence[Taken]) -> dict[AttemptKey, Claim]:
        sources = [(one.record.partition, one.record.offset) for one in taken]
        is_bulk = self._priority is Priority.LOW
        async with self._single.connect() as connection:
            return await table.claim(
                connection, [one.delivery for one in taken], lease=self._lease, sources=sources, is_bulk=is_bulk
            )

    def settle(self, one: Taken, claim: Claim, results: Results) -> None:
        """What follows from an attempt that is not to be called: it was, or must not be."""
        if claim.finished is not None:
            if not claim.is_copy:
                self._follow(one, claim.finished, results)
        elif claim.forbidden is not None:
            self._forbid(one, claim.forbidden, results)

    def _forbid(self, one: Taken, reason: str, results: Results) -> None:
        if reason == _PAUSED:
            results.records.append(self._later(one))
            return
        status = _FORBIDDEN.get(reason)
        if status is None:
            return  # sent, ended or replaced meanwhile: nothing new to tell
        if one.delivery.reached and status is not Status.CANCELLED:
            self._follow(one, attempts.reached_already(one.delivery, self._clock(), reason), results)
            return
        results.changes.append(attempts.change(one.delivery, status, reason=reason))
        told = attempts.status_event(one.delivery, status, self._clock(), reason=reason)
        results.records.append(Outgoing(STATUS, one.record.key, told.value()))

    def _later(self, one: Taken) -> Outgoing:
        """The same attempt, by way of a delay topic: it is not made, so nothing is counted and nobody is told."""
        topic = send_topic(self._channel, self._priority)
        record = Outgoing(topic, one.record.key, one.record.value, (CONTENT_TYPE, *one.record.carried()))
        now = self._clock()
        due_at = now + PAUSE + random.random() * _SPREAD  # noqa: S311  spreads, and hides nothing
        HELD_BACK.labels(self._channel).inc()
        return delayed(record, due_at, now=now)

    async def release(self, refused: Sequence[tuple[Taken, Claim]]) -> None:
        """Gives back claims whose calls no provider took: the attempt was never made."""

        async def give_back() -> None:
            async with self._single.connect() as connection:
                await table.release(connection, [(one.key, claim.takeovers) for one, claim in refused])

        await persistently(give_back, lane=self._lane)

    def attempt(self, delivery: Delivery, claim: Claim, result: DeliveryResult) -> Attempt:
        """A call's result as it is stored, with what follows decided once and for all."""
        now, fan_out, outcome = self._clock(), result.fan_out, result.outcome
        retry_at = None
        if fan_out is not None and not fan_out.is_try:
            # Stored as `broken`: the devices that are left could not be asked, so this attempt counts for no try.
            outcome, retry_at = Outcome.BROKEN, now + max(result.retry_after or PUT_OFF, PUT_OFF)
        elif outcome is not Outcome.SENT:
            decision = retry.decide(
                result.outcome,
                policy=self._policy,
                tries=delivery.tries,
                ambiguous=delivery.ambiguous,
                retry_after=result.retry_after,
                now=now,
                random=random.random,
            )
            retry_at = decision.retry_at
            if retry_at is None and outcome is Outcome.RETRY and (delivery.reached or (fan_out and fan_out.reached)):
                outcome = Outcome.SENT  # to some of its devices; `reason` says to how many it was not
        return Attempt(
            delivery_id=delivery.delivery_id,
            generation=delivery.generation,
            attempt=delivery.attempt,
            outcome=outcome,
            provider=result.provider,
            provider_message_id=_storable(result.provider_message_id),
            reason=_storable(result.reason),
            retry_at=retry_at,
            finished_at=now,
            takeovers=claim.takeovers,
            **_devices(fan_out),
        )

    def _follow(self, one: Taken, attempt: Attempt, results: Results) -> None:
        """What an attempt with an outcome causes, whether it was made now or before a crash."""
        caused: Effects = effects(one.delivery, attempt)
        key, carried = one.record.key, one.record.carried()
        results.changes.append(caused.change)
        for event in caused.events:
            topic = SENT if isinstance(event, SentEvent) else FAILED if isinstance(event, FailedEvent) else STATUS
            results.records.append(Outgoing(topic, key, event.value(), (CONTENT_TYPE, *carried)))
        if caused.retry is not None:
            following, due_at = caused.retry
            topic = send_topic(self._channel, self._priority)
            record = Outgoing(topic, key, following.record_value(), (CONTENT_TYPE, *carried))
            if due_at - self._clock() > FAR:
                results.scheduled.append(scheduled(record, _schedule_id(following), due_at))
            else:
                results.records.append(delayed(record, due_at, now=self._clock()))
            RETRIES.labels(self._channel).inc()
        if caused.dead is not None:
            burial = self._burial(one.record, one.delivery, str(attempt.outcome), caused.dead, attempt)
            results.burials.append(burial)

    def _burial(
        self,
        record: Incoming,
        delivery: Delivery | None,
        error_class: str,
        reason: str,
        attempt: Attempt | None = None,
    ) -> Burial:
        return Burial(
            record=record,
            stage=Stage.DELIVERY,
            error_class=error_class,
            error_reason=reason,
            failed_at=attempt.finished_at if attempt else self._clock(),
            attempts=attempt.attempt if attempt else 0,
            notification_id=delivery.notification_id if delivery else None,
            channel=self._channel,
        )

    async def record(self, called: Sequence[Called], results: Results) -> Results:
        """Makes outcomes and statuses durable; returns what is to be told. Repeated while the database is away."""
        return await persistently(lambda: self._record(called, results), lane=self._lane)

    async def _record(self, called: Sequence[Called], results: Results) -> Results:
        caused = results.copy()
        if not called and not caused.changes:
            return caused
        notifications = {each.taken.delivery.notification_id for each in called}
        notifications |= {change.notification_id for change in caused.changes}
        dead = [device for each in called for device in each.attempt.dead_devices]
        async with self._people.changing() as people, self._engine.begin() as connection:
            # Notifications before attempts, as a claim takes them; the other way round they could wait for each other.
            await lock(connection, sorted(notifications))
            stored = await table.finish(connection, [each.attempt for each in called]) if called else {}
            async for each in in_turns(called):
                # What is stored counts, also when another worker stored it first.
                self._follow(each.taken, stored[each.taken.key], caused)
            await drop_dead(connection, _dead_addresses(called, stored))
            if caused.scheduled:
                await outbox.schedule(connection, caused.scheduled)
            await table.advance(connection, caused.changes, is_locked=True)
            if dead:
                await people.also(*await forget_dead(connection, dead))
        return caused

    async def tell(self, results: Results) -> None:
        """Writes events, retries and dead letters; repeated while Kafka or the database is away."""
        await persistently(lambda: self._tell(results), lane=self._lane)

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


def _dead_addresses(called: Sequence[Called], stored: Mapping[AttemptKey, Attempt]) -> list[DeadTarget]:
    """The e-mail addresses and phone numbers that a provider called dead."""
    return [
        DeadTarget(
            delivery_id=attempt.delivery_id,
            generation=attempt.generation,
            attempt=attempt.attempt,
            channel=delivery.channel,
            address=delivery.to,
            category=delivery.category,
            provider=attempt.provider,
            reason=attempt.reason,
            occurred_at=attempt.finished_at,
        )
        for each in called
        if (attempt := stored[each.taken.key]).outcome is Outcome.TARGET_DEAD
        and (delivery := each.taken.delivery).to is not None
    ]


def _devices(fan_out: FanOut | None) -> dict[str, Any]:
    if fan_out is None:
        return {}
    return {
        "remaining_devices": fan_out.remaining or None,
        "reached_devices": fan_out.reached,
        "dead_devices": fan_out.dead,
    }


def _schedule_id(delivery: Delivery) -> UUID:
    return uuid5(delivery.delivery_id, f"{delivery.generation}/{delivery.attempt}")


def _storable(text: str | None) -> str | None:
    """A vendor's word as a table and a header can hold it: without NUL and lone surrogates, and not long."""
    return text[:500].replace("\x00", "").encode("utf-8", "replace").decode() if text else None
