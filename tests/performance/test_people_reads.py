"""What it costs to read the people of a batch: from the database, and where they are kept.

One JSON line each, per person: CPU of the process and time, in microseconds. `-s` shows them.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from models.audience import Person
from models.repositories import audience
from streams.people import People
from streams.people_versions import PeopleVersions, people_redis
from tests.fixtures.service import Service, a_service
from tests.fixtures.stack import Databases

BATCH = 250
ROUNDS = 40
STORED = 20_000

Read = Callable[[AsyncConnection, Collection[str]], Awaitable[dict[str, Person]]]


@pytest.fixture
async def stored(kafka: str, postgres: Databases, migrated: str, valkey: str) -> AsyncIterator[Service]:
    """People with contacts, every third with preferences, every second with a device."""
    async with a_service(kafka, postgres, migrated, valkey) as service:
        await service.execute(
            "INSERT INTO contacts (user_id, email, phone, name, locale, timezone, updated_at) "
            "SELECT 'u-' || n, 'u' || n || '@example.com', '+4915112345678', 'Ada', 'en', 'Europe/Berlin', now() "
            f"FROM generate_series(1, {STORED}) AS n"
        )
        await service.execute(
            "INSERT INTO notification_preferences (user_id, channels, categories, updated_at) "
            f"SELECT 'u-' || n, '{{\"sms\": false}}', '{{}}', now() FROM generate_series(1, {STORED}, 3) AS n"
        )
        await service.execute(
            "INSERT INTO devices (platform, token, user_id, registered_at) "
            f"SELECT 'fcm', 't' || n, 'u-' || n, now() FROM generate_series(1, {STORED}, 2) AS n"
        )
        await service.execute("ANALYZE")
        yield service


def each_once(round_: int) -> list[str]:
    return [f"u-{1 + (round_ * BATCH + number) % STORED}" for number in range(BATCH)]


def some_again(round_: int) -> list[str]:
    return [f"u-{1 + round_ % 2 * BATCH + number}" for number in range(BATCH)]


async def test_what_reading_people_costs(stored: Service) -> None:
    redis = people_redis(stored.settings)
    versions = PeopleVersions(redis, key_prefix=stored.settings.redis_key_prefix, read_seconds=5)
    try:
        await told(stored, "database, each once", audience.people, each_once)
        await told(stored, "kept, each once", People(versions).read, each_once)
        await told(stored, "kept, asked again", People(versions).read, some_again)
    finally:
        await redis.aclose()


async def told(service: Service, name: str, read: Read, people: Callable[[int], list[str]]) -> None:
    async with service.engine.begin() as connection:
        for round_ in range(6):
            assert len(await read(connection, people(round_))) == BATCH
        began, cpu = time.perf_counter(), time.process_time()
        for round_ in range(6, 6 + ROUNDS):
            await read(connection, people(round_))
        took, used = time.perf_counter() - began, time.process_time() - cpu
    each = 1e6 / (ROUNDS * BATCH)
    print(json.dumps({"people": name, "cpu_us": round(used * each, 1), "wall_us": round(took * each, 1)}))
