"""The delay line: waits with the records of one tier and sends each on when its wait is over.

A partition whose head is not due yet is paused and seeked back to it, so nothing is held in memory and nothing behind a
waiting head is read twice. Offsets are committed after the next hop is acknowledged; a crash in between repeats the
hop, which ids and claims make harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from mode import Service
from sqlalchemy.ext.asyncio import AsyncEngine

from models.enums import Stage
from models.repositories import dead_letters as index
from models.settings import Settings
from streams.clock import now
from streams.dead_letters import Burial, unburied
from streams.delays import BadDelay, due, onward
from streams.errors import persistently
from streams.intake import Publishes
from streams.kafka import client_options
from streams.lanes import consumer_group
from streams.metrics import DEAD, DELAY_LATENESS
from streams.records import Incoming, Outgoing, headers_from
from streams.topics import TIERS, delay_topic
from streams.watchdog import progress_of

log = structlog.get_logger()

_SMALLEST = next(iter(TIERS.values()))
_POLL = timedelta(milliseconds=200)
_BATCH_RECORDS = 500
_FETCH_BYTES = 128 * 1024


def ready_at(stamped: datetime, due_at: datetime, wait: timedelta, *, now: datetime) -> datetime:
    """When a record leaves its tier: at its due time where that is near the end of the tier's wait, else at that end.

    A record stamped in the future leaves at once for the tier that fits, so that it holds up nobody behind it.
    """
    end = now if stamped > now else stamped + wait
    return due_at if due_at - end < _SMALLEST else end


class DelayLine(Service):  # type: ignore[misc]
    """One tier. Started and stopped with the lanes; its consumer group is its own."""

    def __init__(
        self,
        tier: str,
        *,
        engine: AsyncEngine,
        publisher: Publishes,
        settings: Settings,
        clock: Callable[[], datetime] = now,
        **service: Any,
    ) -> None:
        super().__init__(**service)
        self._tier = tier
        self._name = f"delay-{tier}"
        self._wait = TIERS[tier]
        self._engine = engine
        self._publisher = publisher
        self._settings = settings
        self._clock = clock
        self._asleep: dict[TopicPartition, datetime] = {}
        self._consumer: AIOKafkaConsumer | None = None

    async def on_start(self) -> None:
        """Joins the tier's group."""
        consumer = AIOKafkaConsumer(
            group_id=consumer_group(self._settings, self._name),
            client_id=self._name,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=10_000,
            heartbeat_interval_ms=3_000,
            max_poll_interval_ms=1_000_000,
            # What is behind a head that waits is read again after each look; a larger record comes all the same.
            max_partition_fetch_bytes=_FETCH_BYTES,
            **client_options(self._settings),
        )
        topic = self._settings.kafka_topic_prefix + delay_topic(self._tier)
        consumer.subscribe([topic], listener=_Forget(self._asleep))
        self._consumer = consumer
        await persistently(consumer.start, lane=self._name)

    async def on_stop(self) -> None:
        """Leaves the group; what waits stays in Kafka."""
        if self._consumer is not None:
            await self._consumer.stop()

    @Service.task  # type: ignore[untyped-decorator]
    async def _run(self) -> None:
        assert self._consumer is not None
        progress = progress_of(self._name)
        with progress.working():
            while not self.should_stop:
                progress.beat()
                try:
                    await self._turn(self._consumer)
                except KafkaError as error:
                    log.warning("delay line holds: kafka is away", tier=self._tier, error=type(error).__name__)
                    with progress.holding("kafka"):
                        await self.sleep(1.0)

    async def _turn(self, consumer: AIOKafkaConsumer) -> None:
        """Reads what is there, sends on what is due, puts the rest of each partition to sleep."""
        self._wake(consumer)
        timeout_ms = max(1, int(self._until_next() / timedelta(milliseconds=1)))
        batch = await consumer.getmany(timeout_ms=timeout_ms, max_records=_BATCH_RECORDS)
        if not batch:
            return
        now = self._clock()
        ready: list[Incoming] = []
        offsets: dict[TopicPartition, int] = {}
        for partition, records in batch.items():
            for record in records:
                wakes_at = self._wakes_at(record, now)
                if wakes_at > now:
                    consumer.seek(partition, record.offset)
                    consumer.pause(partition)
                    self._asleep[partition] = wakes_at
                    break
                ready.append(self._incoming(record))
                offsets[partition] = record.offset + 1
        if ready:
            await persistently(lambda: self._send_on(ready), lane=self._name)
            still_ours = consumer.assignment()
            mine = {partition: offset for partition, offset in offsets.items() if partition in still_ours}
            if mine:
                await consumer.commit(mine)

    def _wake(self, consumer: AIOKafkaConsumer) -> None:
        now = self._clock()
        due_now = [partition for partition, wakes_at in self._asleep.items() if wakes_at <= now]
        for partition in due_now:
            del self._asleep[partition]
        ours = consumer.assignment()
        consumer.resume(*(partition for partition in due_now if partition in ours))

    def _until_next(self) -> timedelta:
        soonest = min(self._asleep.values(), default=None)
        return _POLL if soonest is None else min(_POLL, max(timedelta(), soonest - self._clock()))

    def _wakes_at(self, record: ConsumerRecord, now: datetime) -> datetime:
        incoming = self._incoming(record)
        try:
            due_at, _ = due(incoming, now=now)
        except BadDelay:
            return now
        return ready_at(incoming.stamped, due_at, self._wait, now=now)

    def _incoming(self, record: ConsumerRecord) -> Incoming:
        return Incoming(
            topic=delay_topic(self._tier),
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp,
            key=record.key,
            value=record.value,
            headers=headers_from(record.headers),
        )

    async def _send_on(self, records: Sequence[Incoming]) -> None:
        now = self._clock()
        hops: list[Outgoing] = []
        burials: list[Burial] = []
        for record in records:
            try:
                due_at, topic = due(record, now=now)
            except BadDelay as error:
                burials.append(self._burial(record, str(error), now))
                continue
            hops.append(onward(record, topic, due_at, now=now))
            if due_at <= now:
                DELAY_LATENESS.observe((now - due_at).total_seconds())
        if burials:
            await self._bury(burials)
        await self._publisher.send_all(hops)

    def _burial(self, record: Incoming, reason: str, now: datetime) -> Burial:
        return Burial(record=record, stage=Stage.DELAY, error_class="invalid_delay", error_reason=reason, failed_at=now)

    async def _bury(self, burials: Sequence[Burial]) -> None:
        async with self._engine.connect() as connection:
            burials = await unburied(connection, burials)
        written = await self._publisher.send_all([burial.outgoing() for burial in burials])
        async with self._engine.begin() as connection:
            places = zip(burials, written, strict=True)
            await index.add(connection, [burial.indexed(*place) for burial, place in places])
        for burial in burials:
            DEAD.labels(burial.stage, burial.error_class).inc()


class _Forget(ConsumerRebalanceListener):  # type: ignore[misc]
    """A partition that comes or goes is looked at afresh: its pause went with the old assignment."""

    def __init__(self, asleep: dict[TopicPartition, datetime]) -> None:
        self._asleep = asleep

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self._asleep.clear()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._asleep.clear()
        await asyncio.sleep(0)
