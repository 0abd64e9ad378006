"""A flood of one person over a limit: it leaves at the limit's pace, hops no more than it must, and holds up nobody."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from models.deliveries import Delivery
from models.enums import Channel, Priority
from models.limits import Scope
from models.repositories import rate_limits
from streams.delays import tier_for
from streams.providers.base import DeliveryResult
from streams.rate_limits import RateLimits, open_rate_limits
from streams.records import Outgoing
from streams.topics import TIERS, delay_topic, request_topic, send_topic
from tests.fixtures.outages import Outages, own_servers
from tests.fixtures.service import Ledger, Service, a_request, a_service, sent
from tests.fixtures.stack import Databases

ONLY = {"requests-normal", "send-email-normal", "delay-1s", "delay-5s", "delay-30s", "outbox", "schedules"}
#: What a delay topic, a batch and a busy machine may add to a slot.
LATE_SECONDS = 3.0


class Timed:
    """An answer that takes everything and writes down when."""

    def __init__(self) -> None:
        self.at: dict[UUID, float] = {}
        self.calls = Counter[UUID]()

    def __call__(self, delivery: Delivery) -> DeliveryResult:
        self.at.setdefault(delivery.notification_id, time.monotonic())
        self.calls[delivery.notification_id] += 1
        return sent(delivery)


async def define(service: Service, scope: Scope, target: str, permits: int, per_seconds: int, burst: int) -> None:
    async with service.engine.begin() as connection:
        await rate_limits.put(connection, scope, target, permits=permits, per_seconds=per_seconds, burst=burst)


async def in_force(limits: RateLimits, category: str) -> None:
    async with asyncio.timeout(5):
        while not (limits.definitions.users and limits.is_limited(category)):
            await asyncio.sleep(0.02)


def flood(user: str, count: int) -> list[dict[str, Any]]:
    return [a_request(user, category="news") for _ in range(count)]


async def publish(service: Service, requests: list[dict[str, Any]]) -> None:
    topic = request_topic(Priority.NORMAL)
    await service.publisher.send_all(
        [Outgoing(topic, request["user_id"].encode(), orjson.dumps(request)) for request in requests]
    )


async def until_sent(timed: Timed, requests: list[dict[str, Any]], within_seconds: float) -> None:
    wanted = {UUID(request["id"]) for request in requests}
    async with asyncio.timeout(within_seconds):
        while not wanted <= timed.at.keys():
            await asyncio.sleep(0.05)


async def warm_up(service: Service, timed: Timed) -> None:
    """Until every lane has joined its group."""
    first = [a_request()]
    await publish(service, first)
    await until_sent(timed, first, 60)


def hops(wait_seconds: float) -> int:
    """How many delay topics a record passes that is due after so long (CONTRACT: Delays)."""
    remaining, count = timedelta(seconds=wait_seconds), 1
    while (remaining := remaining - TIERS[tier_for(remaining)]) >= timedelta(seconds=1):
        count += 1
    return count


async def count(service: Service, topic: str) -> int:
    """Records that were ever written to a topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=service.settings.kafka_bootstrap_servers)
    await consumer.start()
    try:
        name = service.settings.kafka_topic_prefix + topic
        partitions = [TopicPartition(name, number) for number in range(service.settings.kafka_partitions)]
        return sum((await consumer.end_offsets(partitions)).values())
    finally:
        await consumer.stop()


@pytest.fixture(scope="module")
async def service(kafka: str, postgres: Databases, migrated: str, valkey: str) -> AsyncIterator[Service]:
    async with a_service(kafka, postgres, migrated, valkey) as running:
        yield running


async def test_a_thousand_of_one_and_ten_of_another(service: Service) -> None:
    """By what the request lane hands on: a channel lane has an order per user, and a pace of its own from that."""
    rate, burst, size = 100, 50, 1000
    handed_on = send_topic(Channel.EMAIL, Priority.NORMAL)
    await define(service, Scope.USER, "news", rate, 1, burst)
    async with (
        open_rate_limits(service.settings, service.engine) as limits,
        service.worker(only=ONLY - {"send-email-normal"}, limits=limits),
    ):
        await in_force(limits, "news")
        await publish(service, [a_request()])
        await service.records(handed_on, count=1, within_seconds=60)  # every lane has joined its group
        many, few = flood("u-flood", size), flood("u-other", 10)
        started = time.time()
        await publish(service, many)
        published = time.time()
        await publish(service, few)
        records = await service.records(handed_on, count=size + 11, within_seconds=60)
        statuses = await service.fetch("SELECT status, count(*) AS n FROM notifications GROUP BY status")
    at = {orjson.loads(record.value)["notification_id"]: record.timestamp / 1000 for record in records}
    assert len(records) == len(at)  # each once
    quick = sorted(at[request["id"]] - published for request in few)
    assert quick[9] <= 5.0
    times = [at[request["id"]] for request in many]
    pace(times, rate=rate, burst=burst + rate)  # and a second of it, where the bucket was not known
    assert max(times) - started <= size / rate + LATE_SECONDS + 5
    assert {row.status for row in statuses} <= {"queued", "throttled"}
    # Each came back to its lane once, and passed only as many tiers as its wait has.
    assert await count(service, request_topic(Priority.NORMAL)) <= 2 * size + 11
    most = sum(hops(max(0.001, (number - burst) / rate)) for number in range(burst, size))
    passed = sum([await count(service, delay_topic(tier)) for tier in TIERS])
    assert passed <= most * 1.1


def pace(when: Iterable[float], *, rate: float, burst: float) -> None:
    """Over every window no more than the limit lets pass, and what is late at its beginning."""
    times = sorted(when)
    for first in range(0, len(times), 25):
        for last in range(first, len(times), 25):
            assert last - first + 1 <= burst + (times[last] - times[first] + LATE_SECONDS) * rate


async def test_a_provider_is_paced_in_place_and_a_changed_limit_counts_at_once(service: Service) -> None:
    rate, burst = 20, 5
    timed = Timed()
    await define(service, Scope.PROVIDER, "ledger", rate, 1, burst)
    async with (
        open_rate_limits(service.settings, service.engine) as limits,
        service.worker(providers={Channel.EMAIL: (Ledger(answer=timed),)}, only=ONLY, limits=limits),
    ):
        await warm_up(service, timed)
        before = {tier: await count(service, delay_topic(tier)) for tier in TIERS}
        requests = [a_request() for _ in range(600)]
        await publish(service, requests)
        async with asyncio.timeout(30):
            while len(timed.at) < 80:
                await asyncio.sleep(0.05)
        slow = sorted(timed.at.values())[1:]
        await define(service, Scope.PROVIDER, "ledger", 1000, 1, 100)
        changed = time.monotonic()
        await until_sent(timed, requests, 30)
        took = time.monotonic() - changed
        assert {tier: await count(service, delay_topic(tier)) for tier in TIERS} == before  # nothing circulates
    for first, since in enumerate(slow):
        for last in range(first, len(slow)):
            assert last - first + 1 <= burst + (slow[last] - since) * rate + 2
    assert took < 520 / rate / 2, "at the old rate it would have taken twice as long"
    assert max(timed.calls.values()) == 1


@pytest.fixture(scope="module")
def redis_alone() -> Iterator[Outages]:
    with own_servers(["valkey"]) as running:
        yield running


async def test_redis_is_killed_in_the_middle(
    kafka: str, postgres: Databases, migrated: str, redis_alone: Outages
) -> None:
    """The local share takes over: slower, never unlimited, and nothing is lost or sent twice."""
    rate, burst, size = 100, 20, 600
    timed = Timed()
    async with a_service(kafka, postgres, migrated, redis_alone.url("valkey")) as service:
        await define(service, Scope.USER, "news", rate, 1, burst)
        await define(service, Scope.PROVIDER, "ledger", 400, 1, 100)
        async with (
            open_rate_limits(service.settings, service.engine) as limits,
            service.worker(providers={Channel.EMAIL: (Ledger(answer=timed),)}, only=ONLY, limits=limits),
        ):
            await in_force(limits, "news")
            await warm_up(service, timed)
            before, during, after = (
                flood("u-flood", size // 3),
                flood("u-flood", size // 3),
                flood("u-flood", size // 3),
            )
            await publish(service, before)
            await until_sent(timed, before[: size // 6], 30)
            async with redis_alone.away("valkey"):
                await publish(service, during)
                others = flood("u-new", 1)
                killed = time.monotonic()
                await publish(service, others)
                await until_sent(timed, others, 20)
                assert timed.at[UUID(others[0]["id"])] - killed < 10
                await until_sent(timed, before, 30)
            await publish(service, after)
            await until_sent(timed, [*before, *during, *after], 90)
    pace((timed.at[UUID(request["id"])] for request in [*before, *during, *after]), rate=rate, burst=burst + rate)
    assert max(timed.calls.values()) == 1
