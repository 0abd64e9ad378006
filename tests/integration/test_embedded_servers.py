"""The embedded servers: they work, and what they hold survives kill -9."""

from __future__ import annotations

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis.asyncio import Redis

from tests.fixtures.stack import Databases


async def test_a_record_goes_through_kafka(kafka: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic("embedded.smoke", 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all", max_request_size=3 * 2**20) as producer:
        await producer.send_and_wait("embedded.smoke", b"x" * (3 * 2**20 - 200))
    async with AIOKafkaConsumer("embedded.smoke", bootstrap_servers=kafka, auto_offset_reset="earliest") as consumer:
        record = await consumer.getone()
    assert record.value is not None and len(record.value) == 3 * 2**20 - 200


async def test_postgres_makes_databases_and_copies_them(postgres: Databases) -> None:
    url = postgres("first")
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE kept (word text)")
    await connection.execute("INSERT INTO kept VALUES ('grüße')")
    await connection.close()
    connection = await asyncpg.connect(postgres("second", template=url))
    assert await connection.fetchval("SELECT word FROM kept") == "grüße"
    await connection.close()


async def test_valkey_keeps_what_it_is_given(valkey: str) -> None:
    async with Redis.from_url(valkey) as client:
        assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
        assert (await client.config_get("appendonly"))["appendonly"] == "yes"
