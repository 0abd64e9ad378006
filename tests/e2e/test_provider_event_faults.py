"""Workers and Postgres are killed while callbacks rain: each change is written once, and told at least once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.system import System, running_system
from models.enums import Channel, EventKind
from models.ids import delivery_id, event_id
from models.provider_events import ProviderEvent
from models.settings import Settings
from streams.producer import Publisher
from streams.records import Outgoing
from streams.topics import PROVIDER_EVENTS, STATUS
from tests.fixtures.told import told

DELIVERIES = 4_000
#: Of these the attempt is recorded only after their events have come.
LATE = 200
PARTITIONS = 4
STEPS = (EventKind.DELIVERED, EventKind.OPENED, EventKind.CLICKED)


@pytest.mark.timeout(300)
async def test_kill_9_while_callbacks_rain(tmp_path: Path) -> None:
    async with running_system(tmp_path / "home", KAFKA_PARTITIONS=str(PARTITIONS)) as system:
        deliveries = await _sent(system)
        events = _rain(deliveries)
        await _publish(system, events)
        for stored, part in ((1_000, "worker-1"), (4_000, "postgres"), (8_000, "worker-1")):
            await _until(system, f"(SELECT count(*) FROM provider_events) >= {stored}")
            system.kill(part)
        await _until(system, f"(SELECT count(*) FROM provider_events) = {len({one.event_id for one in events})}")
        await _record_attempts(system, deliveries[:LATE])
        await _until(system, "NOT EXISTS (SELECT FROM notification_deliveries WHERE status <> 'clicked')")
        await _until(system, "NOT EXISTS (SELECT FROM provider_events WHERE retry_at IS NOT NULL)")
        await _until(system, "NOT EXISTS (SELECT FROM notifications WHERE status <> 'clicked')")
        told_of = await _told(system)
    possible = {str(event_id(one, 0, 1, status)) for one in deliveries for status in ("delivered", "opened", "clicked")}
    assert set(told_of) <= possible
    assert {str(event_id(one, 0, 1, "clicked")) for one in deliveries} <= set(told_of)
    # Told twice is what lay between a commit and the offset behind it: a few batches for each kill.
    assert sum(told_of.values()) - len(told_of) <= 3 * PARTITIONS * 2 * 500


def _rain(deliveries: list[UUID]) -> list[ProviderEvent]:
    """All that is told of all, many things twice, in no order; of some by the vendor's id alone."""
    events: list[ProviderEvent] = []
    for number, one in enumerate(deliveries):
        named = {"provider_message_id": f"m-{one}"} if number < 2 * LATE else {"delivery_id": one, "generation": 0}
        events += [told(kind, attempt=1, **named) for kind in STEPS]
    chance = random.Random(1)
    events += chance.sample(events, len(events) // 5)
    chance.shuffle(events)
    return events


async def _sent(system: System) -> list[UUID]:
    """Deliveries that were sent."""
    notifications = [uuid4() for _ in range(DELIVERIES)]
    deliveries = [delivery_id(one, Channel.EMAIL) for one in notifications]
    async with system.database() as database:
        await database.execute(
            "INSERT INTO notifications (id, user_id, client, fingerprint, category, priority, status, rank, created_at,"
            " updated_at) SELECT x, 'u-' || x, 'test', '', 'general', 'normal', 'sent', 40, now(), now()"
            " FROM unnest($1::uuid[]) AS x",
            notifications,
        )
        await database.execute(
            "INSERT INTO notification_deliveries (delivery_id, notification_id, channel, status, rank, attempts,"
            " provider, created_at, updated_at) SELECT d, n, 'email', 'sent', 40, 1, 'sendgrid', now(), now()"
            " FROM unnest($1::uuid[], $2::uuid[]) AS g(d, n)",
            deliveries,
            notifications,
        )
    await _record_attempts(system, deliveries[LATE:])
    return deliveries


async def _record_attempts(system: System, deliveries: list[UUID]) -> None:
    async with system.database() as database:
        await database.execute(
            "INSERT INTO delivery_logs (delivery_id, generation, attempt, claimed_at, lease_until, source_partition,"
            " source_offset, outcome, provider, provider_message_id, finished_at)"
            " SELECT d, 0, 1, now(), now(), 0, 0, 'sent', 'sendgrid', 'm-' || d, now() FROM unnest($1::uuid[]) AS d",
            deliveries,
        )


def _settings(system: System) -> Settings:
    return Settings(
        kafka_bootstrap_servers=system.settings["KAFKA_BOOTSTRAP_SERVERS"],
        database_url=system.settings["DATABASE_URL"],
    )


async def _publish(system: System, events: list[ProviderEvent]) -> None:
    publisher = Publisher(_settings(system), name="test")
    await publisher.start()
    try:
        await publisher.connected()
        await publisher.send_all([Outgoing(PROVIDER_EVENTS, one.key, one.record_value()) for one in events])
    finally:
        await publisher.stop()


async def _until(system: System, holds: str) -> None:
    """Waits until the database says so, however often it goes away meanwhile."""
    async with asyncio.timeout(90):
        while True:
            try:
                async with system.database() as database:
                    while not await database.fetchval(f"SELECT {holds}"):
                        await asyncio.sleep(0.05)
                    return
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(0.2)


async def _told(system: System) -> Counter[str]:
    """How often each status event lies on its topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=system.settings["KAFKA_BOOTSTRAP_SERVERS"])
    await consumer.start()
    try:
        partitions = [TopicPartition(STATUS, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        found: Counter[str] = Counter()
        while [one for one, end in ends.items() if await consumer.position(one) < end]:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found.update(orjson.loads(record.value or b"")["event_id"] for record in records)
        return found
    finally:
        await consumer.stop()
