"""The examples do what they say, against a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from models.enums import Channel, Status
from models.events import StatusEvent
from models.requests import NotificationRequest, parse
from streams.domain.templates import Renderer

EXAMPLES = Path(__file__).parents[2] / "examples"


async def run(name: str, *arguments: str, kafka: str, prefix: str) -> str:
    """Runs an example to its end; returns what it printed."""
    environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka, "KAFKA_TOPIC_PREFIX": prefix}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def make_topic(kafka: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1)])
    await admin.close()


async def test_publish_writes_a_request_that_the_service_takes(kafka: str) -> None:
    prefix = f"e{uuid4().hex[:8]}."
    topic = f"{prefix}notification.requests.normal"
    await make_topic(kafka, topic)

    printed = await run("publish.py", "eve@example.com", kafka=kafka, prefix=prefix)

    async with AIOKafkaConsumer(topic, bootstrap_servers=kafka, auto_offset_reset="earliest") as consumer:
        record = await asyncio.wait_for(consumer.getone(), 20)
    request = parse(NotificationRequest, record.value or b"")
    assert request.id == UUID(printed.strip())
    assert request.recipient.email == "eve@example.com"
    assert record.key == request.user_id.encode()


async def test_consume_handles_a_repeated_event_once(kafka: str) -> None:
    prefix = f"e{uuid4().hex[:8]}."
    topic = f"{prefix}notification.status"
    await make_topic(kafka, topic)
    events = [
        StatusEvent(
            event_id=UUID(int=number),
            notification_id=UUID(int=9),
            user_id="ada",
            channel=Channel.EMAIL,
            status=status,
            timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for number, status in ((1, Status.QUEUED), (1, Status.QUEUED), (2, Status.SENT))
    ]
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        for event in events:
            await producer.send_and_wait(topic, event.value(), key=b"ada")

    printed = await run("consume.py", "--count", "2", kafka=kafka, prefix=prefix)

    assert [line.split()[3] for line in printed.splitlines()] == ["queued", "sent"]


def test_the_console_requests_are_valid() -> None:
    for line in (EXAMPLES / "requests.txt").read_text().splitlines():
        key, _, value = line.partition("|")
        request = parse(NotificationRequest, value.encode())
        assert request.user_id == key
        assert request.content is not None
        for channel in request.wanted_channels:
            assert Renderer().render(channel, request.content.parts(), request.data)
        assert json.loads(value)
