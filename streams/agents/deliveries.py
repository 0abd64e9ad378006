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
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from models.changes import Attempt, Change
from models.deliveries import Delivery
from models.enums import Channel, Outcome, Priority, Stage, Status
from models.errors import Refused
from models.events import FailedEvent, SentEvent
from models.repositories import dead_letters as index
from models.repositories import deliveries as table
from models.repositories.deliveries import Claim
from models.requests import parse
from models.settings import RetryPolicy, Settings
from streams.dead_letters import Burial, unburied
from streams.delays import delayed
from streams.domain import attempts, retry
from streams.domain.attempts import Effects, effects
from streams.errors import halved, persistently
from streams.intake import Publishes
from streams.metrics import ATTEMPTS, DEAD, PROVIDER_SECONDS, RETRIES
from streams.providers.base import DeliveryResult, NotificationProvider, UnsupportedFeature
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
#: Delivery id, generation, attempt.
AttemptKey = tuple[UUID, int, int]
#: How far past the end of somebody's lease an attempt is asked for again.
_LEASE_MARGIN = timedelta(milliseconds=100)


@dataclass(frozen=True, slots=True)
class Taken:
    """A record of a send topic that could be read."""

    record: Incoming
    delivery: Delivery


@dataclass(slots=True)
class Results:
    """All that a batch causes."""

    attempts: list[Attempt] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    records: list[Outgoing] = field(default_factory=list)
    burials: list[Burial] = field(default_factory=list)


class DeliveryStage:
    """What a channel lane does with a batch. One per lane: its semaphore is the lane's bound on calls in flight."""

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
        self._providers = providers
        self._engine = engine
        #: For the claim, which is one statement and so its own transaction.
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._publisher = publisher
        self._policy: RetryPolicy = settings.retry_policy(channel)
        self._timeout_seconds = settings.provider_timeout_seconds
        self._lease = settings.claim_lease
        self._slots = asyncio.Semaphore(settings.calls_in_flight)
        self._clock = clock
        self._lane = f"send-{channel}-{priority}"

    async def __call__(self, records: Sequence[Incoming]) -> None:
        """Finishes a batch: when this returns, all that it caused is durable."""
        results = Results()
        taken = await self._read(records, results)
        claims: dict[AttemptKey, Claim] = {}
        await halved(taken, lambda part: self._claim(part, claims), lambda one: self._refused(one, results))
        won = self._sort(taken, claims, results)
        async for one, attempt in in_turns(await self._call_all(won)):
            results.attempts.append(attempt)
            self._follow(one, attempt, results)
        await persistently(lambda: self._record(results), lane=self._lane)
        await persistently(lambda: self._tell(results), lane=self._lane)

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
                return await table.claim(connection, [one.delivery for one in taken], lease=self._lease)

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
                self._follow(one, claim.finished, results)
            elif claim.forbidden is not None:
                self._forbid(one, claim.forbidden, results)
            else:
                self._ask_again(one, claim, results)
        return won

    def _forbid(self, one: Taken, reason: str, results: Results) -> None:
        status = _FORBIDDEN.get(reason)
        if status is None:
            return  # sent, ended or replaced meanwhile: nothing new to tell
        results.changes.append(attempts.change(one.delivery, status, reason=reason))
        told = attempts.status_event(one.delivery, status, self._clock(), reason=reason)
        results.records.append(Outgoing(STATUS, one.record.key, told.value()))

    def _ask_again(self, one: Taken, claim: Claim, results: Results) -> None:
        """Somebody else has the attempt: it is asked for again when that lease has ended."""
        now = self._clock()
        again_at = (claim.leased_until or now + self._lease) + _LEASE_MARGIN
        same = Outgoing(send_topic(self._channel, self._priority), one.record.key, one.record.value)
        results.records.append(delayed(same, again_at, now=now))

    async def _call_all(self, won: Iterable[tuple[Taken, Claim]]) -> list[tuple[Taken, Attempt]]:
        """Calls the provider for each: users beside each other, the deliveries of a user one after the other."""
        by_user: dict[str, list[tuple[Taken, Claim]]] = defaultdict(list)
        for one, claim in won:
            by_user[one.delivery.user_id].append((one, claim))
        calls = [asyncio.create_task(self._call_in_order(chain)) async for chain in in_turns(by_user.values())]
        return [called for chain in await asyncio.gather(*calls) for called in chain]

    async def _call_in_order(self, chain: Sequence[tuple[Taken, Claim]]) -> list[tuple[Taken, Attempt]]:
        called = []
        for one, claim in chain:
            async with self._slots:
                result = await self._send(one.delivery)
            called.append((one, self._attempt(one.delivery, claim, result)))
        return called

    async def _send(self, delivery: Delivery) -> DeliveryResult:
        if not self._providers:
            return DeliveryResult(outcome=Outcome.PERMANENT, provider="none", reason="no_provider")
        provider = self._providers[0]
        started = time.perf_counter()
        try:
            async with provider.slots or nullcontext(), asyncio.timeout(self._timeout_seconds):
                result = await provider.send(delivery)
        except (UnsupportedFeature, Refused) as error:
            reason = f"invalid {error.field}"
            result = DeliveryResult(outcome=Outcome.PERMANENT, provider=provider.name, reason=reason)
        except TimeoutError:
            result = DeliveryResult(outcome=Outcome.AMBIGUOUS, provider=provider.name, reason="timeout")
        except Exception as error:
            # Only the kind of error: its text may hold what the provider was given.
            reason = f"provider raised {type(error).__name__}"
            log.error(reason, provider=provider.name, delivery_id=str(delivery.delivery_id))  # noqa: TRY400
            result = DeliveryResult(outcome=Outcome.RETRY, provider=provider.name, reason=reason)
        PROVIDER_SECONDS.labels(self._channel, provider.name).observe(time.perf_counter() - started)
        ATTEMPTS.labels(self._channel, provider.name, result.outcome).inc()
        return result

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

    async def _record(self, results: Results) -> None:
        if not results.attempts and not results.changes:
            return
        async with self._engine.begin() as connection:
            # First what locks the notifications: a claim locks them before the attempts, too.
            await table.advance(connection, results.changes)
            if results.attempts:
                await table.finish(connection, results.attempts)

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


def _storable(text: str | None) -> str | None:
    """A vendor's word as a table and a header can hold it: without NUL and lone surrogates, and not long."""
    return text[:500].replace("\x00", "").encode("utf-8", "replace").decode() if text else None
