"""The delay line on a real broker: never early, hardly late, and nobody waits for somebody else's record."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streams.delays import delayed
from streams.records import CONTENT_TYPE, Outgoing
from streams.topics import DEAD_LETTERS, TIERS, delay_topic
from tests.fixtures.records import RawClient, Written, raw_client
from tests.fixtures.service import Service, a_service
from tests.fixtures.stack import Databases

#: A topic that no lane of these tests reads: what comes back is found there, stamped when it was written.
BACK = "notification.send.push.low"
DELAYS = {f"delay-{tier}" for tier in TIERS}
LATE = 2.0
HALF_A_MINUTE = timedelta(seconds=30)


@pytest.fixture(scope="module")
async def raw(service: Service) -> AsyncIterator[RawClient]:
    async with raw_client(service.settings) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
async def worker(service: Service) -> AsyncIterator[None]:
    async with service.worker(only=DELAYS):
        yield


def in_(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def text(moment: datetime) -> bytes:
    return moment.isoformat().encode()


class Line:
    """Puts records into the line and reads when they came out of it."""

    def __init__(self, service: Service, raw: RawClient) -> None:
        self._service = service
        self._raw = raw
        self._run = uuid.uuid4().hex[:8]
        self._count = 0
        self.due: dict[bytes, datetime] = {}

    def record(self, due_at: datetime, *, topic: str = BACK) -> Outgoing:
        self._count += 1
        name = f"{self._run}-{self._count}".encode()
        self.due[name] = due_at
        return Outgoing(topic, b"k-%d" % (self._count % 50), name, (CONTENT_TYPE, ("traceparent", name)))

    async def delay(self, *dues: datetime) -> None:
        """As the lanes do."""
        now = datetime.now(UTC)
        await self._service.publisher.send_all([delayed(self.record(due_at), due_at, now=now) for due_at in dues])

    async def put(self, tier: str, due_at: datetime, **more: Any) -> Written:
        """Straight into a tier, whichever it is."""
        record = self.record(due_at)
        headers = [("due-at", text(due_at)), ("return-topic", BACK.encode())]
        return await self._raw.put(delay_topic(tier), record.value, headers=headers, **more)

    async def lateness(self, *, within_seconds: float = 20.0) -> dict[bytes, float]:
        """Seconds between due time and arrival, by value, once all are back."""
        deadline = time.monotonic() + within_seconds
        while True:
            found = {record.value: record for record in await self._raw.read(BACK) if record.value in self.due}
            if len(found) == len(self.due):
                return {name: found[name].timestamp / 1000 - due_at.timestamp() for name, due_at in self.due.items()}
            missing = sorted(self.due.keys() - found.keys())
            assert time.monotonic() < deadline, f"{len(missing)} of {len(self.due)} are not back: {missing[:5]}"
            await asyncio.sleep(0.3)


@pytest.fixture
def line(service: Service, raw: RawClient) -> Line:
    return Line(service, raw)


def assert_in_time(lateness: Sequence[float], *, late: float = LATE) -> None:
    # Kafka's stamps have milliseconds, cut off.
    assert min(lateness) >= -0.001, f"early by {-min(lateness):.3f} s"
    assert max(lateness) < late


async def test_never_early_whatever_the_wait(line: Line, raw: RawClient) -> None:
    await line.delay(*(in_(random.Random(5).uniform(0.05, 7.5)) for _ in range(50)))
    dice = random.Random(5)
    await line.delay(*(in_(dice.uniform(0.05, 7.5)) for _ in range(300)))
    assert_in_time(list((await line.lateness()).values()))
    back = [record for record in await raw.read(BACK) if record.value in line.due]
    assert len(back) == len(line.due), "each came back once"
    for record in back:
        assert dict(record.headers) == {"content-type": b"application/json", "traceparent": record.value}
        assert record.key is not None
        assert record.key.startswith(b"k-")


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.chaos)])
async def test_many_on_the_5_s_tier_are_hardly_late(line: Line, count: int) -> None:
    for _ in range(count // 500):
        await line.delay(*[in_(5.05)] * 500)
    late = sorted((await line.lateness(within_seconds=60)).values())
    figures = {"p50": late[count // 2], "p99": late[int(count * 0.99)], "max": late[-1], "earliest": late[0]}
    print(json.dumps({"delay": "5s", "records": count, **{name: round(value, 3) for name, value in figures.items()}}))
    assert_in_time(late[: int(count * 0.99)])


async def test_a_due_time_survives_a_restart(kafka: str, postgres: Databases, migrated: str, valkey: str) -> None:
    async with a_service(kafka, postgres, migrated, valkey) as service, raw_client(service.settings) as raw:
        line = Line(service, raw)
        only = {"delay-1s", "delay-5s"}
        async with service.worker(only=only):
            await line.delay(*[in_(1.5), in_(6), in_(9)] * 20)
            await asyncio.sleep(0.7)
        await asyncio.sleep(1.5)
        assert not await raw.read(BACK), "nobody is there to send them on"
        async with service.worker(only=only):
            lateness = await line.lateness()
    assert min(lateness.values()) >= -0.001
    # What became due meanwhile comes at once, the rest in time.
    kept = [late for name, late in lateness.items() if line.due[name] > max(line.due.values()) - timedelta(seconds=4)]
    assert len(kept) >= 20
    assert max(kept) < LATE


async def test_longer_waits_hold_up_nobody_in_another_tier(line: Line) -> None:
    now = datetime.now(UTC)
    far = [delayed(line.record(in_(seconds)), in_(seconds), now=now) for seconds in (40, 200, 700, 4000) * 100]
    line.due.clear()
    await line._service.publisher.send_all(far)
    await line.delay(*(in_(0.3 + number / 100) for number in range(150)))
    assert_in_time(list((await line.lateness()).values()))


async def test_a_record_in_the_wrong_tier_holds_up_nobody(line: Line) -> None:
    """Due in an hour, but waiting among those of a second; stamped in the future; due long ago."""
    for tier, due_in, stamp_in in (("1s", 3600, 0), ("1s", 86400 * 31, 0), ("1s", 900, 1800), ("1s", 2, 3000)):
        await line.put(tier, in_(due_in), timestamp_ms=int((time.time() + stamp_in) * 1000))
    line.due.clear()
    for tier, seconds in (("1s", -1e9), ("1s", 0.5), ("5s", 0.2), ("5s", -60)):
        await line.put(tier, in_(seconds))
    await line.delay(*(in_(0.2 + number / 100) for number in range(150)))
    late = await line.lateness()
    assert_in_time([seconds for name, seconds in late.items() if line.due[name] > datetime.now(UTC) - HALF_A_MINUTE])


BAD: dict[str, list[tuple[str, bytes | None]]] = {
    "no headers": [],
    "no due-at": [("return-topic", BACK.encode())],
    "no return-topic": [("due-at", b"2026-01-01T00:00:00Z")],
    "due-at is no UTF-8": [("due-at", b"\xff"), ("return-topic", BACK.encode())],
    "due-at is null": [("due-at", None), ("return-topic", BACK.encode())],
    "due-at is NaN": [("due-at", b"NaN"), ("return-topic", BACK.encode())],
    "due-at is a number": [("due-at", b"-1000000000000000"), ("return-topic", BACK.encode())],
    "due-at in year 9999": [("due-at", b"9999-12-31T23:59:59Z"), ("return-topic", BACK.encode())],
    "due-at before year 1": [("due-at", b"0000-01-01T00:00:00Z"), ("return-topic", BACK.encode())],
    "due-at at the calendar's edge": [("due-at", b"9999-12-31T23:59:59-23:59"), ("return-topic", BACK.encode())],
    "due-at without offset": [("due-at", b"2026-01-01T00:00:00"), ("return-topic", BACK.encode())],
    "due-at in 33 days": [("due-at", text(in_(33 * 86400))), ("return-topic", BACK.encode())],
    "foreign return-topic": [("due-at", b"2026-01-01T00:00:00Z"), ("return-topic", b"__consumer_offsets")],
    "delayed for ever": [("due-at", b"2026-01-01T00:00:00Z"), ("return-topic", b"notification.delay.1s")],
    "return-topic is null": [("due-at", b"2026-01-01T00:00:00Z"), ("return-topic", None)],
}
LARGE = [("due-at", b"2026-01-01T00:00:00Z"), ("return-topic", b"notification.requests.normal")]


async def test_poison_in_a_tier_is_a_dead_letter_and_holds_up_nobody(
    service: Service, line: Line, raw: RawClient
) -> None:
    placed: dict[str, tuple[Written, bytes | None]] = {}
    for tier in ("1s", "5s"):
        for name, headers in BAD.items():
            value = name.encode()
            placed[f"{tier} {name}"] = await raw.put(delay_topic(tier), value, headers=headers), value
            await line.put(tier, in_(0.8))
    # The topic it would return to takes no record of its size.
    large = b"x" * 700_000
    placed["too large to return"] = await raw.put(delay_topic("1s"), large, headers=LARGE), large
    for _ in range(20):
        await line.put("1s", in_(0.8))
    assert_in_time(list((await line.lateness()).values()))

    async with asyncio.timeout(10):
        while len(rows := await service.fetch("SELECT * FROM delivery_failures")) < len(placed):
            await asyncio.sleep(0.1)
    index = {(row.source_topic, row.source_partition, row.source_offset): row for row in rows}
    letters = {f"{letter.partition}-{letter.offset}": letter for letter in await raw.read(DEAD_LETTERS)}
    assert len(rows) == len(letters) == len(placed)
    for name, (written, expected) in placed.items():
        row = index[written.topic, written.partition, written.offset]
        letter = letters[row.id]
        assert (name, letter.value) == (name, expected)
        assert row.stage == "delay"
        assert row.error_class == "invalid_delay"
        given = BAD.get(name.split(" ", 1)[1], LARGE)
        assert list(letter.headers[: len(given)]) == given
