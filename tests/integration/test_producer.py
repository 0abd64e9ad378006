"""The producer: what does not fit, what came compressed, and life after a failed batch."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from models.enums import Channel
from models.errors import Unavailable
from streams.producer import TooLarge
from streams.records import Outgoing
from streams.topics import DEAD_LETTERS, STATUS
from tests.fixtures.records import raw_client
from tests.fixtures.service import Ledger, Service, a_request

LOW = "notification.requests.low"


async def test_what_does_not_fit_is_refused_before_anything_is_written(service: Service) -> None:
    large = Outgoing(LOW, b"k", b"x" * 700_000)
    with pytest.raises(TooLarge, match=LOW):
        await service.publisher.send_all([Outgoing(LOW, b"k", b"{}"), large])
    async with raw_client(service.settings) as raw:
        assert await raw.read(LOW) == []


async def test_a_record_that_came_compressed_is_a_dead_letter_unchanged(service: Service) -> None:
    huge = b'{"x":"' + b"a" * 4_000_000 + b'"}'
    producer = AIOKafkaProducer(
        bootstrap_servers=service.settings.kafka_bootstrap_servers, compression_type="gzip", max_request_size=10_000_000
    )
    await producer.start()
    ledger = Ledger()
    async with service.worker(providers={Channel.EMAIL: (ledger,)}, only={"requests-low", "send-email-low"}):
        await producer.send_and_wait(service.settings.kafka_topic_prefix + LOW, huge, key=b"k")
        request = a_request("k")
        await service.publish(request, priority="low")
        async with asyncio.timeout(20):
            while not ledger.calls:
                await asyncio.sleep(0.05)
    await producer.stop()
    letters = [letter.value for letter in await service.records(DEAD_LETTERS, count=1)]
    assert huge in letters


async def test_a_partition_can_be_written_after_a_batch_of_it_failed(service: Service) -> None:
    """aiokafka counts the failed batch as sent, and the broker would refuse all later ones as out of order."""
    name = service.settings.kafka_topic_prefix + STATUS
    await _limit(service, name, 20_000)
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable):
            while True:  # the broker has said yes to the limit before it keeps to it
                await service.publisher.send_all([Outgoing(STATUS, b"k", b"x" * 30_000)])
    await _limit(service, name, 1_000_000)
    async with asyncio.timeout(20):
        while True:
            try:
                places = await service.publisher.send_all([Outgoing(STATUS, b"k", b"y")] * 3)
            except Unavailable:
                await asyncio.sleep(0.1)
            else:
                break
    assert len(places) == 3


async def _limit(service: Service, name: str, size: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=service.settings.kafka_bootstrap_servers)
    await admin.start()
    resource = ConfigResource(ConfigResourceType.TOPIC, name, configs={"max.message.bytes": str(size)})
    await admin.alter_configs([resource])
    await admin.close()
