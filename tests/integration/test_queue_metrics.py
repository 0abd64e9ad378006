"""Samples of the queues: right for lanes that nobody runs, taken by one process at a time, thinned out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from prometheus_client import REGISTRY

from models.errors import Unavailable
from models.repositories import outbox, queue_metrics
from models.repositories.outbox import Waiting
from models.repositories.queue_metrics import QueueSample
from streams.errors import is_passing
from streams.kafka import client_options
from streams.lanes import consumer_group
from streams.queue_reader import QueueReader, Reading
from streams.queue_sampler import QueueSampler
from streams.queues import QUEUES
from streams.records import Outgoing
from streams.topics import DEAD_LETTERS, delay_topic
from tests.fixtures.service import Service, a_service
from tests.fixtures.stack import Databases

LOW = "notification.send.email.low"


@pytest.fixture
async def queues(kafka: str, postgres: Databases, migrated: str, valkey: str) -> AsyncIterator[Service]:
    """A service whose lanes nobody runs."""
    async with a_service(kafka, postgres, migrated, valkey) as service:
        yield service


@pytest.fixture
async def reader(queues: Service) -> AsyncIterator[QueueReader]:
    made = QueueReader(queues.settings)
    yield made
    await made.close()


async def fill(service: Service, topic: str, count: int, *, size: int = 100) -> None:
    await service.publisher.send_all([Outgoing(topic, f"u-{n}".encode(), b"x" * size) for n in range(count)])


async def commit(service: Service, lane: str, topic: str, *, each: int) -> None:
    """Commits as a lane would that has done the first `each` records of every partition."""
    consumer = AIOKafkaConsumer(
        group_id=consumer_group(service.settings, lane), enable_auto_commit=False, **client_options(service.settings)
    )
    places = [
        TopicPartition(service.settings.kafka_topic_prefix + topic, n) for n in range(service.settings.kafka_partitions)
    ]
    consumer.assign(places)
    await consumer.start()
    try:
        await consumer.commit(dict.fromkeys(places, each))
    finally:
        await consumer.stop()


async def test_a_lane_that_nobody_runs_has_its_lag_and_age(queues: Service, reader: QueueReader) -> None:
    published = time.time()
    await fill(queues, LOW, 50)
    await fill(queues, DEAD_LETTERS, 3)
    await fill(queues, delay_topic("10m"), 2)
    found = await reader.read()
    assert set(found) == {name for name, queue in QUEUES.items() if queue.topic}
    low = found["send-email-low"]
    assert (low.lag, low.in_total, low.out_total, low.members) == (50, 50, 0, 0)
    assert low.oldest_at is not None
    assert published - 1 < low.oldest_at.timestamp() < published + 5
    assert (found["dlq"].lag, found["dlq"].out_total, found["dlq"].members) == (3, None, None)
    assert found["delay-10m"].lag == 2
    empty = found["send-email-high"]
    assert (empty.lag, empty.oldest_at) == (0, None)


async def test_the_age_is_that_of_the_first_record_that_is_not_done(queues: Service, reader: QueueReader) -> None:
    await fill(queues, LOW, 20)
    await asyncio.sleep(1.1)  # so that the two halves differ in age
    second = time.time()
    await fill(queues, LOW, 20)
    await commit(queues, "send-email-low", LOW, each=0)
    before = (await reader.read())["send-email-low"]
    assert before.oldest_at is not None
    assert before.oldest_at.timestamp() < second - 0.5
    ends = await _ends(queues, LOW)
    await commit(queues, "send-email-low", LOW, each=min(ends.values()) - 1)
    after = (await reader.read())["send-email-low"]
    assert after.oldest_at is not None
    assert after.oldest_at.timestamp() > second - 0.5
    assert after.lag == 40 - 2 * (min(ends.values()) - 1)


async def _ends(service: Service, topic: str) -> Mapping[TopicPartition, int]:
    consumer = AIOKafkaConsumer(**client_options(service.settings))
    await consumer.start()
    try:
        name = service.settings.kafka_topic_prefix + topic
        found: Mapping[TopicPartition, int] = await consumer.end_offsets([TopicPartition(name, n) for n in range(2)])
        return found
    finally:
        await consumer.stop()


async def test_what_retention_took_is_no_lag(queues: Service, reader: QueueReader) -> None:
    await fill(queues, LOW, 40)
    await commit(queues, "send-email-low", LOW, each=2)
    admin = AIOKafkaAdminClient(**client_options(queues.settings))
    await admin.start()
    ends = await _ends(queues, LOW)
    await admin.delete_records({place: RecordsToDelete(before_offset=end - 1) for place, end in ends.items()})
    await admin.close()
    low = (await reader.read())["send-email-low"]
    assert low.lag == 2
    assert low.oldest_at is not None


async def test_heads_larger_than_a_fetch_are_read_too(queues: Service, reader: QueueReader) -> None:
    await fill(queues, LOW, 8, size=200_000)
    await fill(queues, DEAD_LETTERS, 4, size=200_000)
    found = await reader.read()
    assert found["send-email-low"].oldest_at is not None
    assert found["dlq"].oldest_at is not None
    again = await reader.read()  # the same connections, the same heads
    assert again["send-email-low"] == found["send-email-low"]


async def test_members_are_those_of_the_group(queues: Service, reader: QueueReader) -> None:
    await fill(queues, "user.contacts", 5)
    async with queues.worker(only={"contacts"}), asyncio.timeout(20):
        while (found := (await reader.read())["contacts"]).lag or found.members != 1:
            await asyncio.sleep(0.1)
    assert found.out_total == found.in_total == 5


async def test_a_broker_that_is_away_is_an_error_and_no_empty_queue(queues: Service) -> None:
    away = queues.settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(Exception) as refused:
        await QueueReader(away).read(within_seconds=3)
    assert is_passing(refused.value)


# -- sampling


class Told:
    """A reader that says what it is told, and how often it was asked."""

    def __init__(self, answer: Callable[[], Awaitable[Mapping[str, Reading]]]) -> None:
        self._answer = answer
        self.asked = 0

    async def read(self, *, within_seconds: float = 5.0) -> Mapping[str, Reading]:
        self.asked += 1
        return await self._answer()

    async def close(self) -> None:
        """Nothing is open."""


async def steady() -> Mapping[str, Reading]:
    await asyncio.sleep(0.1)
    return {"contacts": Reading(lag=4, in_total=9, out_total=5, oldest_at=datetime.now(UTC), members=1)}


async def stored(service: Service) -> list[QueueSample]:
    async with service.engine.connect() as connection:
        return await queue_metrics.newest(connection)


async def test_one_process_of_many_takes_the_sample(queues: Service) -> None:
    reader = Told(steady)
    samplers = [QueueSampler(engine=queues.engine, reader=reader) for _ in range(4)]
    taken = await asyncio.gather(*(sampler.sample() for sampler in samplers))
    assert reader.asked == 1
    assert sum(bool(samples) for samples in taken) == 1
    assert not any([await sampler.sample() for sampler in samplers]), "before its time"
    assert {sample.lane for sample in await stored(queues)} == {
        "contacts",
        "outbox",
        "schedules",
        "provider-events-unmatched",
    }


async def test_the_next_process_goes_on_with_the_rates(queues: Service) -> None:
    total = iter((100, 160))

    async def growing() -> Mapping[str, Reading]:
        now = next(total)
        return {"contacts": Reading(lag=0, in_total=now, out_total=now, oldest_at=None, members=1)}

    reader = Told(growing)
    quick = timedelta(milliseconds=300)
    await QueueSampler(engine=queues.engine, reader=reader, every=quick).sample()
    first = await stored(queues)
    async with asyncio.timeout(5):
        while not await QueueSampler(engine=queues.engine, reader=reader, every=quick).sample():
            await asyncio.sleep(0.05)
    second = {sample.lane: sample for sample in await stored(queues)}["contacts"]
    elapsed = (second.sampled_at - first[0].sampled_at).total_seconds()
    assert second.in_per_second == pytest.approx(60 / elapsed)


async def test_the_waiting_rows_are_counted(queues: Service) -> None:
    async with queues.engine.begin() as connection:
        await outbox.queue(connection, [Waiting(topic="t", key=b"k", value=b"v") for _ in range(3)])
    await QueueSampler(engine=queues.engine, reader=Told(steady)).sample()
    found = {sample.lane: sample for sample in await stored(queues)}
    assert found["outbox"].lag == 3
    assert found["outbox"].oldest_age_seconds is not None
    for name in ("schedules", "provider-events-unmatched"):
        assert (found[name].lag, found[name].oldest_age_seconds) == (0, None)


async def test_the_gauges_are_those_of_the_process_whose_turn_it_is(queues: Service) -> None:
    def shown() -> float | None:
        return REGISTRY.get_sample_value("comms_queue_lag_records", {"lane": "contacts"})

    sampler = QueueSampler(engine=queues.engine, reader=Told(steady))
    await sampler.sample()
    assert shown() == 4
    await sampler.sample()  # it is not its turn: another process shows them now
    assert shown() is None


async def test_no_sample_is_stored_while_the_broker_is_away(queues: Service) -> None:
    async def away() -> Mapping[str, Reading]:
        raise Unavailable("kafka", "does not answer")

    with pytest.raises(Unavailable):
        await QueueSampler(engine=queues.engine, reader=Told(away)).sample()
    assert await stored(queues) == []


@pytest.mark.parametrize("error", [Unavailable("kafka", "does not answer"), ValueError("an odd answer")], ids=type)
async def test_the_sampler_goes_on_whatever_the_broker_says(queues: Service, error: Exception) -> None:
    is_back = asyncio.Event()

    async def flaky() -> Mapping[str, Reading]:
        if not is_back.is_set():
            raise error
        return await steady()

    reader = Told(flaky)
    sampler = QueueSampler(engine=queues.engine, reader=reader, every=timedelta(milliseconds=50))
    await sampler.start()
    try:
        async with asyncio.timeout(10):
            while reader.asked < 2:
                await asyncio.sleep(0.02)
            is_back.set()
            while not await stored(queues):
                await asyncio.sleep(0.02)
    finally:
        await sampler.stop()


async def test_old_samples_are_thinned_out(queues: Service) -> None:
    now = datetime.now(UTC)

    def one(age: timedelta, *, is_minutely: bool) -> QueueSample:
        return QueueSample(lane="contacts", sampled_at=now - age, lag=0, is_minutely=is_minutely)

    kept = [
        one(timedelta(seconds=30), is_minutely=False),
        one(timedelta(minutes=59), is_minutely=False),
        one(timedelta(hours=2), is_minutely=True),
        one(timedelta(days=6), is_minutely=True),
    ]
    gone = [one(timedelta(hours=2, seconds=5), is_minutely=False), one(timedelta(days=8), is_minutely=True)]
    async with queues.engine.begin() as connection:
        await queue_metrics.add(connection, [*kept, *gone])
        await queue_metrics.thin_out(connection, now=now)
        left = await queue_metrics.history(
            connection, "contacts", since=now - timedelta(days=30), before=None, limit=100
        )
        page = await queue_metrics.history(
            connection, "contacts", since=now - timedelta(days=1), before=kept[0].sampled_at, limit=1
        )
    assert left == kept
    assert page == kept[1:2]
