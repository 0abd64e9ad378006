"""Poison through the running service: the same worker process, all good ones delivered in time, nothing in its log."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from bench.load import email_request
from bench.system import System, running_system
from models.enums import Channel
from models.ids import delivery_id
from models.settings import Settings
from streams.topics import CONTACTS, DEAD_LETTERS, delay_topic
from tests.fixtures.records import RawClient, Written, raw_client
from tests.integration.test_poison import CASES, Poison

REQUESTS = "notification.requests.normal"
AROUND = 10
PARTITIONS = 2
#: What the cases hold and nobody else's records do.
CONTENT = (b"PICKLE", b"pigeon", b"yesterday", b"Hi {{ name }}", b"ada@example.com", b"builtins")


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    home = tmp_path_factory.mktemp("poison") / "home"
    async with running_system(home, LOG_LEVEL="DEBUG", KAFKA_PARTITIONS=str(PARTITIONS)) as running:
        yield running


@pytest.fixture(scope="module")
async def raw(system: System) -> AsyncIterator[RawClient]:
    settings = Settings(
        kafka_bootstrap_servers=system.settings["KAFKA_BOOTSTRAP_SERVERS"],
        database_url=system.settings["DATABASE_URL"],
        kafka_partitions=PARTITIONS,
    )
    async with raw_client(settings) as client:
        yield client


async def send_good(raw: RawClient, good: list[UUID]) -> None:
    request = email_request(len(good))
    good.append(UUID(request["id"]))
    await raw.send(REQUESTS, orjson.dumps(request), key=request["user_id"].encode())


async def poisoned(raw: RawClient, case: Poison) -> list[Written]:
    """In the file's order, and with ids of their own: another test uses the same cases."""
    value = case.value
    if case.notification_id is not None and value is not None:
        value = value.replace(str(case.notification_id).encode(), str(uuid.uuid4()).encode())
    return [
        await raw.put(REQUESTS, value, key=case.key, headers=case.headers, timestamp_ms=case.timestamp_ms)
        for _ in range(case.copies)
    ]


async def accepted(system: System, good: list[UUID], *, within_seconds: float) -> float:
    """Seconds until the sink has all of them."""
    started = time.monotonic()
    wanted = {str(delivery_id(notification, Channel.EMAIL)) for notification in good}
    async with asyncio.timeout(within_seconds):
        while wanted - (await system.ledger())["ledger"].keys():
            await asyncio.sleep(0.2)
    return time.monotonic() - started


async def test_all_cases_in_one_partition(system: System, raw: RawClient) -> None:
    pids = {name: system.pid(name) for name in ("worker-1", "api")}
    good: list[UUID] = []
    dead: dict[str, list[Written]] = {}
    for case in CASES:
        for _ in range(AROUND):
            await send_good(raw, good)
        places = await poisoned(raw, case)
        if case.expect == "dead-letter":
            dead[case.name] = places
        for _ in range(AROUND):
            await send_good(raw, good)
    seconds = await accepted(system, good, within_seconds=10)
    await raw.until_done("requests-normal", REQUESTS, within_seconds=10)
    assert {name: system.pid(name) for name in pids} == pids, "a process was started again"
    print(json.dumps({"poison": len(CASES), "good": len(good), "seconds_to_deliver": round(seconds, 2)}))

    letters = await dead_letters(raw)
    for name, places in dead.items():
        for place in places:
            assert len(letters.get((place.topic, place.partition, place.offset), [])) == 1, name
    ledger = (await system.ledger())["ledger"]
    assert [ledger[str(delivery_id(one, Channel.EMAIL))]["accepted"] for one in good] == [1] * len(good)


async def dead_letters(raw: RawClient) -> dict[tuple[str, int, int], list[Any]]:
    found: dict[tuple[str, int, int], list[Any]] = {}
    for letter in await raw.read(DEAD_LETTERS):
        headers = dict(reversed(letter.headers))
        place = (headers["source-topic"].decode(), int(headers["source-partition"]), int(headers["source-offset"]))
        found.setdefault(place, []).append(letter)
    return found


async def test_poison_on_the_other_topics(system: System, raw: RawClient) -> None:
    """What only the service should write, and contacts, which anybody may."""
    pid = system.pid("worker-1")
    topics = ("notification.send.email.normal", "notification.send.in_app.high", delay_topic("1s"), delay_topic("1h"))
    places = []
    for topic in (*topics, CONTACTS):
        for value in (b"{", b"\xff" * 300, b"true", b'{"user_id": 7}'):
            places.append(await raw.put(topic, value))
            places.append(await raw.put_undecodable(topic, value))
    async with asyncio.timeout(15):
        while {(one.topic, one.partition, one.offset) for one in places} - (await dead_letters(raw)).keys():
            await asyncio.sleep(0.3)
    good: list[UUID] = []
    for _ in range(20):
        await send_good(raw, good)
    await accepted(system, good, within_seconds=10)
    assert system.pid("worker-1") == pid


async def test_the_index_has_one_row_each(system: System, raw: RawClient) -> None:
    letters = await dead_letters(raw)
    database = await asyncpg.connect(system.settings["DATABASE_URL"])
    try:
        rows = await database.fetch("SELECT id, source_topic, source_partition, source_offset FROM delivery_failures")
    finally:
        await database.close()
    index = {tuple(row.values())[1:]: row["id"] for row in rows}
    assert len(index) == len(rows)
    assert {place: f"{one.partition}-{one.offset}" for place, [one] in letters.items()} == index


async def test_no_log_line_holds_their_content(system: System) -> None:
    for file in sorted((system.home / "log").glob("*")):
        lines = [line for line in file.read_bytes().splitlines() if any(word in line for word in CONTENT)]
        assert not lines, (file.name, lines[0][:300])


def test_the_cases_are_those_of_the_file() -> None:
    file = json.loads((Path(__file__).parents[1] / "payloads" / "kafka_poison.json").read_text())
    assert {case["id"] for case in file["cases"]} <= {case.name for case in CASES}
