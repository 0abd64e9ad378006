"""`comms topics` and `comms dlq` against a real broker and database, and what they say without."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition
from sqlalchemy import text

from cli import CommandError
from cli.commands.topics import inspect
from cli.dead_letters import read
from cli.servers import database
from models.enums import Channel, Stage
from models.repositories import dead_letters as index
from models.repositories.dead_letter_search import Wanted, find
from models.settings import Settings
from streams.dead_letters import Burial
from streams.letter_view import described
from streams.letters import Place
from streams.records import Incoming
from streams.topics import CATALOGUE
from tests.fixtures.stack import Databases

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECRET = b'{"user_id": "ada", "text": "top secret"\xff'


def settings_for(**values: Any) -> Settings:
    defaults: dict[str, Any] = {"database_url": "postgresql://nobody@127.0.0.1:1/none", "kafka_partitions": 2}
    return Settings(**(defaults | values))


def comms(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {name: value for name, value in os.environ.items() if not name.startswith("COMMS_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "cli.main", *arguments],
        env={**base, "PYTHONPATH": str(ROOT), "COMMS_HOME": str(ROOT / "no-such-home"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def make_topics(kafka: str, prefix: str, names: list[str], partitions: int = 2) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        topics = [
            NewTopic(prefix + name, partitions, 1, topic_configs={**CATALOGUE[name].settings()}) for name in names
        ]
        await admin.create_topics(topics)
    finally:
        await admin.close()


def burial() -> Burial:
    record = Incoming(
        topic="notification.send.email.high",
        partition=1,
        offset=42,
        timestamp_ms=1_767_268_800_000,
        key=b"ada@example.com",
        value=SECRET,
        headers=(("content-type", b"application/json"), ("x-their-own", b"secret too")),
    )
    return Burial(
        record=record,
        stage=Stage.DELIVERY,
        error_class="permanent",
        error_reason="550 5.1.1",
        failed_at=NOW,
        attempts=3,
        notification_id=UUID(int=7),
        channel=Channel.EMAIL,
    )


async def buried(kafka: str, prefix: str) -> Place:
    letter = burial().outgoing()
    async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all") as producer:
        told = await producer.send_and_wait(
            prefix + letter.topic, letter.value, key=letter.key, headers=list(letter.headers)
        )
    return Place(told.partition, told.offset)


async def test_topics_are_counted_and_the_missing_are_named(kafka: str) -> None:
    prefix = f"t{uuid4().hex[:8]}."
    names = [name for name in CATALOGUE if name != "notification.sent"]
    await make_topics(kafka, prefix, names)
    requests = prefix + "notification.requests.high"
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        for number in range(5):
            await producer.send_and_wait(requests, b"{}", partition=number % 2)
    group = f"{prefix}lane"
    async with AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False) as consumer:
        consumer.assign([TopicPartition(requests, 0)])
        await consumer.commit({TopicPartition(requests, 0): 1})

    report = await inspect(settings_for(kafka_bootstrap_servers=kafka, kafka_topic_prefix=prefix))

    by_name = {topic.name: topic for topic in report.topics}
    assert by_name[requests].messages == 5
    assert by_name[requests].partitions == 2
    assert by_name[requests].lag == {group: 4}
    assert by_name[requests].retention == "7 d"
    assert by_name[prefix + "user.contacts"].retention == "compacted"
    assert report.missing == [prefix + "notification.sent"]
    assert report.too_small == []


async def test_the_command_fails_where_topics_or_partitions_are_missing(kafka: str) -> None:
    prefix = f"t{uuid4().hex[:8]}."
    environment = {"KAFKA_BOOTSTRAP_SERVERS": kafka, "DATABASE_URL": "postgresql://x", "KAFKA_TOPIC_PREFIX": prefix}
    none = await asyncio.to_thread(comms, "topics", "--json", **environment)
    assert none.returncode == 1
    assert json.loads(none.stdout)["missing"] == sorted(prefix + name for name in CATALOGUE)
    await make_topics(kafka, prefix, list(CATALOGUE), partitions=1)
    small = await asyncio.to_thread(comms, "topics", **environment, KAFKA_PARTITIONS="2")
    assert small.returncode == 1
    assert "fewer partitions than KAFKA_PARTITIONS" in small.stderr
    assert "`comms migrate`" in small.stderr
    whole = await asyncio.to_thread(comms, "topics", **environment, KAFKA_PARTITIONS="1")
    assert (whole.returncode, whole.stderr) == (0, "")
    assert len(whole.stdout.splitlines()) == len(CATALOGUE) + 1


async def test_a_dead_letter_is_shown_without_its_content(kafka: str) -> None:
    prefix = f"t{uuid4().hex[:8]}."
    await make_topics(kafka, prefix, ["notification.dlq"])
    settings = settings_for(kafka_bootstrap_servers=kafka, kafka_topic_prefix=prefix)
    place = await buried(kafka, prefix)

    document = described(await read(settings, place), content=False)

    assert document["id"] == str(place)
    assert (document["error_class"], document["error_reason"], document["attempts"]) == ("permanent", "550 5.1.1", 3)
    assert document["source"] == {"topic": "notification.send.email.high", "partition": 1, "offset": 42}
    assert document["value"] == {"bytes": len(SECRET), "sha256": hashlib.sha256(SECRET).hexdigest()}
    assert "secret" not in json.dumps(document)
    assert "ada@example.com" not in json.dumps(document)


async def test_showing_content_is_written_down(kafka: str, postgres: Databases, migrated: str) -> None:
    prefix = f"t{uuid4().hex[:8]}."
    await make_topics(kafka, prefix, ["notification.dlq"])
    place = await buried(kafka, prefix)
    url = postgres("letters", template=migrated)
    environment = {"KAFKA_BOOTSTRAP_SERVERS": kafka, "DATABASE_URL": url, "KAFKA_TOPIC_PREFIX": prefix}

    hidden = await asyncio.to_thread(comms, "dlq", "show", str(place), **environment)
    no_reason = await asyncio.to_thread(comms, "dlq", "show", str(place), "--content", **environment)
    look = ("dlq", "show", str(place), "--content", "--reason", "ticket 7", "--by", "Grace", "--json")
    shown = await asyncio.to_thread(comms, *look, **environment)

    assert hidden.returncode == 0
    assert "secret" not in hidden.stdout
    assert hidden.stderr == ""
    assert (no_reason.returncode, no_reason.stdout) == (1, "")
    assert "--reason is needed" in no_reason.stderr
    document = json.loads(shown.stdout)
    assert document["content"] == {"base64": "eyJ1c2VyX2lkIjogImFkYSIsICJ0ZXh0IjogInRvcCBzZWNyZXQi/w=="}
    assert "secret" not in shown.stderr
    async with database(settings_for(database_url=url)) as connection:
        [entry] = (await connection.execute(text("SELECT * FROM audit_log"))).all()
    assert (entry.who, entry.action, entry.reason) == ("Grace", "dead_letter_content_shown", "ticket 7")
    assert entry.details == {"ids": [str(place)]}


async def test_a_dead_letter_that_is_not_there_is_said_so(kafka: str) -> None:
    prefix = f"t{uuid4().hex[:8]}."
    settings = settings_for(kafka_bootstrap_servers=kafka, kafka_topic_prefix=prefix)
    with pytest.raises(CommandError, match="has no partition 0"):
        await read(settings, Place(0, 0))
    await make_topics(kafka, prefix, ["notification.dlq"])
    with pytest.raises(CommandError, match="partition 0 holds nothing"):
        await read(settings, Place(0, 0))
    place = await buried(kafka, prefix)
    with pytest.raises(CommandError, match="holds offsets 0 to 0"):
        await read(settings, Place(place.partition, 17))


async def test_the_index_is_searched(postgres: Databases) -> None:
    url = postgres()
    settings = settings_for(database_url=url)
    with pytest.raises(CommandError, match="no tables yet: run `comms migrate`"):
        async with database(settings) as connection:
            await find(connection, Wanted(), limit=10)
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url},
        check=True,
        capture_output=True,
    )
    async with database(settings) as connection:
        await index.add(connection, [burial().indexed(1, 10)])
    async with database(settings) as connection:
        assert [letter.id for letter in await find(connection, Wanted(), limit=10)] == ["1-10"]
        matching = Wanted(
            stage="delivery", error_class="permanent", channel="email", topic="notification.send.email.high", since=NOW
        )
        assert len(await find(connection, matching, limit=10)) == 1
        for other in (Wanted(stage="request"), Wanted(channel="sms"), Wanted(since=datetime(2026, 1, 2, tzinfo=UTC))):
            assert await find(connection, other, limit=10) == []
    listed = await asyncio.to_thread(comms, "dlq", "list", "--json", "--stage", "delivery", DATABASE_URL=url)
    assert [letter["id"] for letter in json.loads(listed.stdout)] == ["1-10"]
    people = await asyncio.to_thread(comms, "dlq", "list", DATABASE_URL=url)
    assert people.stdout.splitlines()[1].startswith("1-10  2026-01-01T12:00:00.000Z  delivery  email")


async def test_servers_that_are_away_are_one_sentence() -> None:
    environment = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    for arguments, sentence in (
        (("topics",), "comms: Kafka at 127.0.0.1:1 does not answer"),
        (("dlq", "show", "0-0"), "comms: Kafka at 127.0.0.1:1 does not answer"),
        (("dlq", "list"), "comms: the database at DATABASE_URL does not answer"),
        (("status", str(UUID(int=1))), "comms: the API at http://127.0.0.1:1 does not answer"),
    ):
        done = await asyncio.to_thread(
            comms, *arguments, **environment, COMMS_TOKEN="t", PUBLIC_URL="http://127.0.0.1:1"
        )
        assert done.returncode == 1
        assert done.stderr.startswith(sentence)
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""
