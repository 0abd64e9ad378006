"""`comms queues`: from the samples, from Kafka where there are none, and what it says when Kafka is away."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models.repositories import queue_metrics
from models.repositories.queue_metrics import QueueSample
from streams.queues import QUEUES
from tests.fixtures.service import Service, a_request, a_service
from tests.fixtures.stack import Databases

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def running(kafka: str, postgres: Databases, migrated: str, valkey: str) -> AsyncIterator[Service]:
    async with a_service(kafka, postgres, migrated, valkey) as service:
        yield service


async def comms(service: Service, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = service.settings
    base = {name: value for name, value in os.environ.items() if not name.startswith("COMMS_")}
    named = {
        "PYTHONPATH": str(ROOT),
        "COMMS_HOME": str(ROOT / "no-such-home"),
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": settings.kafka_topic_prefix,
        "DATABASE_URL": settings.database_url.replace("+asyncpg", ""),
    }
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-P", "-m", "cli.main", "queues", *arguments],
        env={**base, **named, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def store(service: Service, *samples: QueueSample) -> None:
    async with service.engine.begin() as connection:
        await queue_metrics.add(connection, samples)


def sample(lane: str = "send-email-high", *, age: timedelta = timedelta(), **values: object) -> QueueSample:
    fields = {"sampled_at": datetime.now(UTC) - age, "lag": 7, "members": 1, "oldest_age_seconds": 30.0, **values}
    return QueueSample(lane=lane, **fields)  # type: ignore[arg-type]


async def test_fresh_samples_are_shown_as_they_are(running: Service) -> None:
    at = datetime.now(UTC)
    await store(
        running,
        sample(sampled_at=at, out_per_second=0.0),
        sample("send-email-low", sampled_at=at, lag=1234, in_per_second=480.0, out_per_second=0.25),
        sample("contacts", sampled_at=at, lag=0, oldest_age_seconds=None, members=0),
        sample("delay-1h", sampled_at=at, lag=0, oldest_age_seconds=None),
    )
    shown = await comms(running)
    assert shown.returncode == 0, shown.stderr
    cells = {line.split()[0]: line.split()[1:] for line in shown.stdout.splitlines()[1:5]}
    assert cells["send-email-high"] == ["holding", "7", "0", "30", "s", "1"]
    assert cells["send-email-low"] == ["flowing", "1234", "480", "0.2", "30", "s", "1"]
    assert "nobody reads contacts" in shown.stdout
    assert "nothing leaves send-email-high" in shown.stdout
    busy = await comms(running, "send-*", "delay-*", "--busy", "--json")
    assert [item["lane"] for item in json.loads(busy.stdout)["items"]] == ["send-email-high", "send-email-low"]


async def test_without_samples_kafka_is_asked(running: Service) -> None:
    await running.publish(a_request())
    told = json.loads((await comms(running, "--json")).stdout)
    items = {item["lane"]: item for item in told["items"]}
    assert list(items) == list(QUEUES)
    assert (items["requests-normal"]["lag"], items["requests-normal"]["state"]) == (1, "unattended")
    assert any("no worker takes samples" in note for note in told["notes"])
    assert any("start `comms worker`" in note for note in told["notes"])
    async with running.engine.connect() as connection:
        assert await queue_metrics.newest(connection) == [], "a look leaves nothing behind"


async def test_with_kafka_away_the_last_samples_are_shown_with_their_age(running: Service) -> None:
    await store(running, sample(age=timedelta(minutes=3)))
    shown = await comms(running, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert shown.returncode == 0, shown.stderr
    assert "Kafka at 127.0.0.1:1 does not answer: this is how it was 18" in shown.stdout
    assert "send-email-high" in shown.stdout


async def test_with_nothing_to_be_had_it_says_so(running: Service) -> None:
    shown = await comms(running, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert shown.returncode == 1
    assert shown.stderr == "comms: Kafka at 127.0.0.1:1 does not answer, and no worker has taken samples yet\n"
    unknown = await comms(running, "nothing-*", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert unknown.returncode == 1


async def test_an_unknown_lane_is_named(running: Service) -> None:
    await store(running, sample())
    shown = await comms(running, "mail")
    assert shown.returncode == 1
    assert "there is no queue 'mail'" in shown.stderr


async def test_a_worker_takes_the_samples(running: Service) -> None:
    async with running.worker(only={"requests-normal", "queue-metrics"}), asyncio.timeout(20):
        while True:
            async with running.engine.connect() as connection:
                found = {one.lane: one for one in await queue_metrics.newest(connection)}
            if found and found["requests-normal"].members:
                break
            await asyncio.sleep(0.1)
    assert found["requests-high"].members == 0
