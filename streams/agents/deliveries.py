"""The channel lanes: claim, call the provider, record, tell.

Each step is made durable before the next, and repeated in place while a server is away, so that a call that was made is
recorded and not made again:

1. claim: one statement for the batch that also reads what forbids each send;
2. call: concurrent across users, in order within a user, under a semaphore, with a timeout;
3. record: outcomes and statuses in bulk, one transaction;
4. tell: events, retries and dead letters, acknowledged by Kafka;
5. only then the source offsets.

A crash between 3 and 4 finds the outcome at the next claim and tells it again. A crash between 2 and 3 leaves a claim
without outcome: its lease ends, and the attempt is made once more, marked ambiguous.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from models.changes import Attempt, Change
from models.deliveries import Delivery
from models.enums import Channel, Outcome, Priority, Stage, Status
from models.errors import Refused
from models.events import FailedEvent, SentEvent
from models.repositories import dead_letters as index
from models.repositories import deliveries as table
from models.repositories import outbox
from models.repositories.deliveries import AttemptKey, Claim
from models.repositories.notifications import lock
from models.requests import parse
from models.settings import RetryPolicy, Settings
from streams.channels.caller import Caller
from streams.dead_letters import Burial, unburied
from streams.delays import FAR, delayed
from streams.domain import attempts, retry
from streams.domain.attempts import Effects, effects
from streams.errors import halved, persistently
from streams.intake import Publishes, scheduled
from streams.lanes import Finish
from streams.metrics import DEAD, RETRIES
from streams.providers.base import DeliveryResult, NotificationProvider
from streams.records import CONTENT_TYPE, Incoming, Outgoing
from streams.topics import FAILED, SENT, STATUS, send_topic
from streams.turns import in_turns

log = structlog.get_logger()

#: A claim that forbids a send with one of these gives the delivery that status; the rest has it already.
_FORBIDDEN = {
    "expired": Status.EXPIRED,
    "cancelled": Status.CANCELLED,
    "opted_out": Status.SUPPRESSED,
    "unsubscribed": Status.SUPPRESSED,
    "suppressed": Status.SUPPRESSED,
}
#: Header of a record that was put off because another worker had the attempt.
_ASKED_AGAIN = "asked-again"
#: How far past the end of somebody's lease an attempt is asked for again.
_LEASE_MARGIN = timedelta(milliseconds=100)


@dataclass(frozen=True, slots=True)
class Taken:
    """A record of a send topic that could be read."""

    record: Incoming
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Called:
    """A delivery whose turn came: the attempt that was made, or none where the claim was lost by then."""

    taken: Taken
    attempt: Attempt | None


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


class DeliveryStage:
    """What a channel lane does with a batch. One per lane."""

    def __init__(
        self,
        *,
        channel: Channel,
        priority: Priority,
        providers: Sequence[NotificationProvider],
        engine: AsyncEngine,
        publisher: Publishes,
        settings: Settings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._channel = channel
        self._priority = priority
        self._engine = engine
        #: For the claim, which is one statement and so its own transaction.
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._publisher = publisher
        self._policy: RetryPolicy = settings.retry_policy(channel)
        self._caller = Caller(channel, providers, settings)
        self._lease = settings.claim_lease
        #: As long as a claim is this young, its lease covers a whole call.
        self._fresh_seconds = settings.claim_grace_seconds / 2
        self._clock = clock
        self._lane = f"send-{channel}-{priority}"

    async def __call__(self, records: Sequence[Incoming]) -> None:
        """Finishes a batch: when this returns, all that it caused is durable."""
        finish = await self.begin(records)
        await finish()

    async def begin(self, records: Sequence[Incoming]) -> Finish:
        """Claims and calls; returns what makes it durable and tells it."""
        results = Results()
        taken = await self._read(records, results)
        claims: dict[AttemptKey, Claim] = {}
        claimed_at = time.monotonic()
        await halved(taken, lambda part: self._claim(part, claims), lambda one: self._refused(one, results))
        called = await self._call_all(self._sort(taken, claims, results), claimed_at)

        async def finish() -> None:
            caused = await persistently(lambda: self._record(called, results), lane=self._lane)
            await persistently(lambda: self._tell(caused), lane=self._lane)

        return finish

    async def _read(self, records: Sequence[Incoming], results: Results) -> list[Taken]:
        taken: dict[AttemptKey, Taken] = {}
        async for record in in_turns(records):
            try:
                delivery = parse(Delivery, record.value or b"")
                if delivery.channel is not self._channel:
                    raise Refused("channel", "is not this topic's")
            except Refused as error:
                results.burials.append(self._burial(record, None, "invalid_delivery", str(error)))
                continue
            taken.setdefault(_key(delivery), Taken(record, delivery))  # the same attempt twice in a batch is one
        return list(taken.values())

    async def _claim(self, taken: Sequence[Taken], claims: dict[AttemptKey, Claim]) -> None:
        if not taken:
            return

        async def ask() -> dict[AttemptKey, Claim]:
            async with self._single.connect() as connection:
                sources = [(one.record.partition, one.record.offset) for one in taken]
                asked = [one.delivery for one in taken]
                return await table.claim(connection, asked, lease=self._lease, sources=sources)

        claims |= await persistently(ask, lane=self._lane)

    async def _refused(self, one: Taken, results: Results) -> None:
        reason = "is refused by the database"
        results.burials.append(self._burial(one.record, one.delivery, "database_refused", reason))

    def _sort(
        self, taken: Sequence[Taken], claims: dict[AttemptKey, Claim], results: Results
    ) -> list[tuple[Taken, Claim]]:
        """The attempts that are ours to call; what becomes of the others goes into the results."""
        won = []
        for one in taken:
            claim = claims.get(_key(one.delivery))
            if claim is None:
                continue  # refused by the database, and buried
            if claim.won:
                won.append((one, claim))
            elif claim.finished is not None:
                if not claim.is_copy or one.record.header(_ASKED_AGAIN):
                    self._follow(one, claim.finished, results)
            elif claim.forbidden is not None:
                self._forbid(one, claim.forbidden, results)
            else:
                self._ask_again(one, claim.leased_until, results)
        return won

    def _forbid(self, one: Taken, reason: str, results: Results) -> None:
        status = _FORBIDDEN.get(reason)
        if status is None:
            return  # sent, ended or replaced meanwhile: nothing new to tell
        results.changes.append(attempts.change(one.delivery, status, reason=reason))
        told = attempts.status_event(one.delivery, status, self._clock(), reason=reason)
        results.records.append(Outgoing(STATUS, one.record.key, told.value()))

    def _ask_again(self, one: Taken, leased_until: datetime | None, results: Results) -> None:
        """Somebody else has the attempt: it is asked for again when that lease has ended."""
        now = self._clock()
        again_at = (leased_until or now + self._lease) + _LEASE_MARGIN
        headers = (CONTENT_TYPE, (_ASKED_AGAIN, b"1"), *one.record.carried())
        same = Outgoing(send_topic(self._channel, self._priority), one.record.key, one.record.value, headers)
        results.records.append(delayed(same, again_at, now=now))

    async def _call_all(self, won: Iterable[tuple[Taken, Claim]], claimed_at: float) -> list[Called]:
        """Calls the provider for each: users beside each other, the deliveries of a user one after the other."""
        by_user: dict[str, list[tuple[Taken, Claim]]] = defaultdict(list)
        for one, claim in won:
            by_user[one.delivery.user_id].append((one, claim))
        calls = [
            asyncio.create_task(self._call_in_order(chain, claimed_at)) async for chain in in_turns(by_user.values())
        ]
        return [called for chain in await asyncio.gather(*calls) for called in chain]

    async def _call_in_order(self, chain: Sequence[tuple[Taken, Claim]], claimed_at: float) -> list[Called]:
        called = []
        for one, claim in chain:
            async with self._caller.slot():
                if await self._is_still_ours(one, claim, claimed_at):
                    result = await self._caller.call(one.delivery)
                    called.append(Called(one, self._attempt(one.delivery, claim, result)))
                else:
                    called.append(Called(one, None))
        return called

    async def _is_still_ours(self, one: Taken, claim: Claim, claimed_at: float) -> bool:
        """Whether the claim covers a whole call; one that waited too long for its turn is prolonged first."""
        if time.monotonic() - claimed_at < self._fresh_seconds:
            return True

        async def renew() -> bool:
            async with self._single.connect() as connection:
                return await table.renew(connection, one.delivery, takeovers=claim.takeovers, lease=self._lease)

        return await persistently(renew, lane=self._lane)

    def _attempt(self, delivery: Delivery, claim: Claim, result: DeliveryResult) -> Attempt:
        now = self._clock()
        retry_at = None
        if result.outcome is not Outcome.SENT:
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
        return Attempt(
            delivery_id=delivery.delivery_id,
            generation=delivery.generation,
            attempt=delivery.attempt,
            outcome=result.outcome,
            provider=result.provider,
            provider_message_id=_storable(result.provider_message_id),
            reason=_storable(result.reason),
            retry_at=retry_at,
            finished_at=now,
            takeovers=claim.takeovers,
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

    async def _record(self, called: Sequence[Called], results: Results) -> Results:
        """Makes outcomes and statuses durable; returns what is to be told. May be repeated."""
        caused = results.copy()
        if not called and not caused.changes:
            return caused
        made = [each.attempt for each in called if each.attempt is not None]
        notifications = {each.taken.delivery.notification_id for each in called}
        notifications |= {change.notification_id for change in caused.changes}
        async with self._engine.begin() as connection:
            # Notifications before attempts, as a claim takes them; the other way round they could wait for each other.
            await lock(connection, sorted(notifications))
            stored = await table.finish(connection, made) if made else {}
            async for each in in_turns(called):
                if each.attempt is None:
                    self._ask_again(each.taken, None, caused)
                else:  # what is stored counts, also when another worker stored it first
                    self._follow(each.taken, stored[_key(each.taken.delivery)], caused)
            if caused.scheduled:
                await outbox.schedule(connection, caused.scheduled)
            await table.advance(connection, caused.changes, is_locked=True)
        return caused

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


def _key(delivery: Delivery) -> AttemptKey:
    return delivery.delivery_id, delivery.generation, delivery.attempt


def _schedule_id(delivery: Delivery) -> UUID:
    return uuid5(delivery.delivery_id, f"{delivery.generation}/{delivery.attempt}")


def _storable(text: str | None) -> str | None:
    """A vendor's word as a table and a header can hold it: without NUL and lone surrogates, and not long."""
    return text[:500].replace("\x00", "").encode("utf-8", "replace").decode() if text else None
