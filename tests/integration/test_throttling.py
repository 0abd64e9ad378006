"""What a request lane makes of people's limits: delayed once, never dropped, never twice; with crashes in between."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from models.enums import Priority, Status
from models.repositories import cancellation
from models.settings import Settings
from streams.agents.asked import SLOT_AT
from streams.agents.requests import RequestStage
from streams.directory import Directory
from streams.domain.templates import Renderer
from streams.metrics import REQUESTS as REQUESTS_TOTAL
from streams.rate_limits import Reservation
from streams.records import Headers, Incoming, Outgoing
from streams.topics import DEAD_LETTERS, FAILED, STATUS
from tests.fixtures.rows import Rows, some_rows
from tests.fixtures.service import a_request
from tests.fixtures.stack import Databases

REQUESTS = "notification.requests.normal"
SEND = "notification.send.email.normal"
_OFFSETS = itertools.count()


class Crash(Exception):
    """The process ends here."""


@dataclass
class Kafka:
    """Writes down what was told; with `crashes`, the process ends when it has been."""

    crashes: bool = False
    told: list[Outgoing] = field(default_factory=list)

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        self.told += records
        if self.crashes:
            raise Crash
        return [(0, next(_OFFSETS)) for _ in records]

    def of(self, topic: str) -> list[dict[str, Any]]:
        return [orjson.loads(record.value or b"") for record in self.told if record.topic == topic]

    def delayed(self) -> list[Outgoing]:
        return [record for record in self.told if record.topic.startswith("notification.delay.")]

    def statuses(self, request: dict[str, Any]) -> list[str]:
        events = self.of(STATUS)
        return [event["status"] for event in events if event["notification_id"] == request["id"]]


@dataclass
class Slots:
    """Limits that answer as told, in the real ones' place; the same request has the same slot."""

    waits: list[float] = field(default_factory=list)
    asked: list[Reservation] = field(default_factory=list)
    limited: set[str] = field(default_factory=lambda: {"news"})
    _given: dict[UUID, datetime] = field(default_factory=dict)

    def is_limited(self, category: str) -> bool:
        return category in self.limited

    async def reserve(self, asked: Sequence[Reservation]) -> list[float]:
        self.asked += asked
        now = datetime.now(UTC)
        for one in asked:
            if one.notification_id not in self._given:
                wait = self.waits.pop(0) if self.waits else 0.0
                self._given[one.notification_id] = now + timedelta(seconds=wait)
        return [max(0.0, (self._given[one.notification_id] - now).total_seconds()) for one in asked]

    def forget(self) -> None:
        self._given.clear()


class World:
    """A request stage, its database, and a clock that can be moved on."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.kafka = Kafka()
        self.slots = Slots()
        self.ahead = timedelta()

    async def work(self, *records: Incoming) -> None:
        """A process that works on one batch."""
        stage = RequestStage(
            engine=self.rows.engine,
            publisher=self.kafka,
            renderer=Renderer(),
            directory=Directory(),
            settings=Settings(database_url="postgresql://none/none"),
            cluster_id="c-1",
            limits=self.slots,
            clock=lambda: datetime.now(UTC) + self.ahead,
        )
        await stage(Priority.NORMAL, records)

    async def status(self, request: dict[str, Any]) -> str:
        return await self.rows.status(UUID(request["id"]))

    def back(self) -> Incoming:
        """The one record that waits, as the delay line returns it."""
        [waiting] = self.kafka.delayed()
        return come_back(waiting)


@pytest.fixture(scope="module")
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated) as made:
        yield made


@pytest.fixture
def world(rows: Rows) -> World:
    return World(rows)


def news(**fields: Any) -> dict[str, Any]:
    return a_request(category="news", **fields)


def record(request: dict[str, Any], *headers: tuple[str, bytes]) -> Incoming:
    return Incoming(REQUESTS, 0, next(_OFFSETS), 0, request["user_id"].encode(), orjson.dumps(request), tuple(headers))


def come_back(waiting: Outgoing) -> Incoming:
    headers: Headers = tuple(pair for pair in waiting.headers if pair[0] not in ("due-at", "return-topic"))
    return Incoming(REQUESTS, 0, next(_OFFSETS), 0, waiting.key, waiting.value, headers)


def header(of: Outgoing, name: str) -> datetime:
    return datetime.fromisoformat(dict(of.headers)[name].decode())  # type: ignore[union-attr]


async def test_what_is_within_the_limit_is_planned_at_once(world: World) -> None:
    request = news()
    await world.work(record(request))
    assert [one.user_id for one in world.slots.asked] == [request["user_id"]]
    assert await world.status(request) == "queued"
    assert world.kafka.statuses(request) == ["accepted", "queued"]


async def test_what_has_no_limit_is_not_asked_about(world: World) -> None:
    request = a_request()
    await world.work(record(request))
    assert world.slots.asked == []
    assert await world.status(request) == "queued"


async def test_what_is_over_the_limit_is_delayed_to_its_slot_and_told(world: World) -> None:
    world.slots.waits = [90.0]
    request = news()
    await world.work(record(request))
    [waiting] = world.kafka.delayed()
    assert waiting.topic == "notification.delay.30s"
    assert header(waiting, "due-at") == pytest.approx(
        datetime.now(UTC) + timedelta(seconds=90), abs=timedelta(seconds=2)
    )
    assert header(waiting, SLOT_AT) == header(waiting, "due-at")
    assert await world.status(request) == "throttled"
    assert world.kafka.statuses(request) == ["accepted", "throttled"]
    assert world.kafka.of(SEND) == []


async def test_each_request_of_a_batch_is_counted_by_what_became_of_it(world: World) -> None:
    ways = ["planned", "throttled", "expired", "scheduled", "repeat"]
    counters = [REQUESTS_TOTAL.labels(Priority.NORMAL, way) for way in ways]
    before = [counter._value.get() for counter in counters]
    world.slots.waits = [20.0]
    plain = [a_request(), a_request()]
    timed = [a_request(expires_at="2020-01-01T00:00:00Z"), a_request(send_at="2099-01-01T00:00:00Z")]
    await world.work(*(record(one) for one in (*plain, news(), *timed)))
    await world.work(record(plain[0]))
    assert [counter._value.get() - was for counter, was in zip(counters, before, strict=True)] == [2, 1, 1, 1, 1]


async def test_it_comes_back_and_is_planned_without_being_limited_again(world: World) -> None:
    world.slots.waits = [20.0]
    request = news()
    await world.work(record(request))
    world.ahead = timedelta(seconds=20.1)
    world.slots.waits = [500.0]
    await world.work(world.back())
    assert len(world.slots.asked) == 1
    assert len(world.kafka.of(SEND)) == 1
    assert world.kafka.statuses(request) == ["accepted", "throttled", "queued"]
    assert await world.status(request) == "throttled"  # until an attempt is made; never back to `queued`


async def test_a_repeat_while_it_waits_neither_sends_nor_hurries_it(world: World) -> None:
    world.slots.waits = [20.0]
    request = news()
    await world.work(record(request))
    await world.work(record(request), record(request))
    world.ahead = timedelta(seconds=60)
    await world.work(record(request))
    assert len(world.kafka.delayed()) == 1
    assert world.kafka.of(SEND) == []
    assert await world.status(request) == "throttled"


async def test_a_repeat_beside_the_one_that_comes_back_does_not_swallow_it(world: World) -> None:
    world.slots.waits = [20.0]
    request = news()
    await world.work(record(request))
    world.ahead = timedelta(seconds=20.1)
    await world.work(record(request), world.back(), record(request))
    assert len(world.kafka.of(SEND)) == 1


async def test_one_that_comes_back_by_a_clock_ahead_of_ours_waits_on(world: World) -> None:
    world.slots.waits = [20.0]
    request = news()
    await world.work(record(request))
    world.ahead = timedelta(seconds=19.9)
    await world.work(world.back())
    assert world.kafka.of(SEND) == []
    first, second = world.kafka.delayed()
    assert header(second, "due-at") == header(first, "due-at")
    world.ahead = timedelta(seconds=20.1)
    await world.work(come_back(second))
    assert len(world.kafka.of(SEND)) == 1


async def test_it_expires_at_its_time_though_its_slot_is_later(world: World) -> None:
    world.slots.waits = [600.0]
    expires_at = datetime.now(UTC) + timedelta(seconds=30)
    request = news(expires_at=expires_at.isoformat().replace("+00:00", "Z"))
    await world.work(record(request))
    [waiting] = world.kafka.delayed()
    assert abs(header(waiting, "due-at") - expires_at) < timedelta(milliseconds=1)
    world.ahead = timedelta(seconds=31)
    await world.work(world.back())
    assert await world.status(request) == "expired"
    assert world.kafka.of(SEND) == []
    assert world.kafka.statuses(request) == ["accepted", "throttled", "expired"]


async def test_cancelled_while_it_waits_it_is_not_sent(world: World) -> None:
    world.slots.waits = [20.0]
    request = news()
    await world.work(record(request))
    async with world.rows.engine.begin() as connection:
        assert not (await cancellation.cancel(connection, UUID(request["id"]), client="tests")).too_late
    world.ahead = timedelta(seconds=21)
    await world.work(world.back())
    assert await world.status(request) == "cancelled"
    assert world.kafka.of(SEND) == []


async def test_further_than_an_hour_it_waits_in_the_database_once(world: World) -> None:
    world.slots.waits = [7200.0, 7300.0]
    request = news()
    await world.work(record(request))
    world.slots.forget()
    assert await world.status(request) == "throttled"
    assert world.kafka.delayed() == []
    known_as = uuid.uuid5(UUID(request["id"]), "throttled/0")
    [row] = await world.rows.fetch("SELECT * FROM notification_schedules WHERE id = :id", id=known_as)
    assert row.due_at > datetime.now(UTC) + timedelta(seconds=7100)
    world.ahead = timedelta(seconds=7201)
    headers = tuple((name, text.encode()) for name, text in row.headers.items())
    await world.work(Incoming(REQUESTS, 0, next(_OFFSETS), 0, bytes(row.key), bytes(row.value), headers))
    assert len(world.kafka.of(SEND)) == 1


async def test_one_for_later_is_limited_when_its_time_has_come(world: World) -> None:
    send_at = datetime.now(UTC) + timedelta(seconds=30)
    request = news(send_at=send_at.isoformat().replace("+00:00", "Z"))
    await world.work(record(request))
    assert world.slots.asked == []
    assert await world.status(request) == "scheduled"
    world.slots.waits = [40.0]
    world.ahead = timedelta(seconds=31)
    await world.work(world.back())
    assert await world.status(request) == "throttled"
    world.ahead = timedelta(seconds=75)
    await world.work(come_back(world.kafka.delayed()[1]))
    assert len(world.kafka.of(SEND)) == 1


async def test_a_request_without_id_comes_back_as_itself(world: World) -> None:
    world.slots.waits = [20.0]
    request = news()
    del request["id"]
    await world.work(record(request))
    world.ahead = timedelta(seconds=21)
    await world.work(world.back())
    [delivery] = world.kafka.of(SEND)
    [throttled] = [event for event in world.kafka.of(STATUS) if event["status"] == "throttled"]
    assert delivery["notification_id"] == throttled["notification_id"]


async def test_a_batch_keeps_its_order_and_waits_only_where_it_must(world: World) -> None:
    world.slots.waits = [0.0, 10.0, 0.0]
    requests = [news(), a_request(), news(), a_request(), news()]
    await world.work(*(record(request) for request in requests))
    sent = [delivery["notification_id"] for delivery in world.kafka.of(SEND)]
    assert sent == [request["id"] for place, request in enumerate(requests) if place != 2]
    assert [await world.status(request) for request in requests] == ["queued"] * 2 + ["throttled"] + ["queued"] * 2


async def test_a_request_that_fails_in_planning_fails_after_its_slot(world: World) -> None:
    world.slots.waits = [20.0]
    request = news(template_id="no-such")
    del request["content"]
    await world.work(record(request))
    world.ahead = timedelta(seconds=21)
    await world.work(world.back())
    assert await world.status(request) == "failed"
    assert len(world.kafka.of(FAILED)) == 1


# -- crashes


async def test_a_crash_before_the_status_is_written_repeats_the_same_slot(world: World) -> None:
    world.slots.waits = [20.0, 500.0]
    request = news()
    again = record(request)
    world.kafka.crashes = True
    with pytest.raises(Crash):
        await world.work(again)
    assert await world.status(request) == "accepted"  # what isn't durable isn't told as done
    world.kafka.crashes = False
    await world.work(again)
    first, second = world.kafka.delayed()
    assert abs(header(first, "due-at") - header(second, "due-at")) < timedelta(seconds=1)
    assert await world.status(request) == "throttled"
    world.ahead = timedelta(seconds=21)
    await world.work(come_back(first))
    await world.work(come_back(second))
    deliveries = {delivery["delivery_id"] for delivery in world.kafka.of(SEND)}
    assert len(deliveries) == 1  # the claim takes one of the two


async def test_one_that_is_back_before_its_status_is_written_has_its_slot(world: World) -> None:
    """A short wait is over sooner than a slow commit."""
    world.slots.waits = [20.0, 500.0]
    request = news()
    world.kafka.crashes = True
    with pytest.raises(Crash):
        await world.work(record(request))
    world.kafka.crashes = False
    world.slots._given[UUID(request["id"])] = datetime.now(UTC)
    world.ahead = timedelta(seconds=21)
    await world.work(world.back())
    assert len(world.kafka.of(SEND)) == 1


async def test_a_slot_that_was_forgotten_is_replaced_and_nothing_is_lost(world: World) -> None:
    world.slots.waits = [20.0, 40.0]
    request = news()
    again = record(request)
    world.kafka.crashes = True
    with pytest.raises(Crash):
        await world.work(again)
    world.kafka.crashes = False
    world.slots.forget()
    await world.work(again)
    first, second = world.kafka.delayed()
    assert header(second, "due-at") > header(first, "due-at")


# -- headers that somebody else wrote


@pytest.mark.parametrize(
    "value",
    [b"2020-01-01T00:00:00+00:00", b"2090-01-01T00:00:00Z", b"", b"soon", b"\xff\xfe", b"2020-01-01T00:00:00"],
)
async def test_a_forged_slot_does_not_pass_the_limit(world: World, value: bytes) -> None:
    world.slots.waits = [20.0]
    request = news()
    await world.work(record(request, (SLOT_AT, value)))
    assert len(world.slots.asked) == 1
    assert await world.status(request) == "throttled"
    assert world.kafka.of(SEND) == []


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"soon",
        b"\xff\xfe",
        b"2020-01-01T00:00:00",
        b"9999-12-31T23:59:59-23:59",
        b"0001-01-01T00:00:00+23:59",
        b"9999-12-31T23:59:59+00:00",
        b"2026-02-30T00:00:00Z",
        b"1" * 5000,
    ],
)
async def test_a_slot_that_makes_no_sense_breaks_nothing(world: World, value: bytes) -> None:
    world.slots.waits = [20.0]
    request = news()
    await world.work(record(request))
    await world.work(record(request, (SLOT_AT, value)))
    assert world.kafka.of(SEND) == []
    assert world.kafka.of(DEAD_LETTERS) == []
    assert await world.status(request) == "throttled"
    world.ahead = timedelta(seconds=21)
    await world.work(come_back(world.kafka.delayed()[0]))
    assert len(world.kafka.of(SEND)) == 1


async def test_a_slot_of_another_body_is_a_conflict(world: World) -> None:
    world.slots.waits = [20.0]
    request = news()
    await world.work(record(request))
    other = {**request, "data": {"name": "Eve"}}
    await world.work(record(other, (SLOT_AT, b"2020-01-01T00:00:00Z")))
    assert world.kafka.of(SEND) == []
    assert len(world.kafka.of(DEAD_LETTERS)) == 1
    assert await world.status(request) == "throttled"


async def test_a_slot_counts_only_while_it_is_waited_for(world: World) -> None:
    request = a_request()
    await world.work(record(request))
    await world.work(record(request, (SLOT_AT, b"2020-01-01T00:00:00Z")))
    assert len(world.kafka.of(SEND)) == 1


async def test_slots_beyond_the_calendar(world: World) -> None:
    world.slots.waits = [0.0]
    request = news()

    class Endless(Slots):
        async def reserve(self, asked: Sequence[Reservation]) -> list[float]:
            return [1e10] * len(asked)

    world.slots = Endless()
    await world.work(record(request))
    assert await world.status(request) == Status.THROTTLED
