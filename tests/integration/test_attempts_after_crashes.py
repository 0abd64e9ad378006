"""What a channel lane makes of an attempt that another run of it began: never lost, hardly ever called twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
import pytest

from models.deliveries import Delivery
from models.enums import Outcome
from models.settings import RetryPolicy, Settings
from streams.providers.base import DeliveryResult
from streams.records import Incoming, Outgoing
from streams.topics import DEAD_LETTERS, FAILED, SENT, STATUS
from tests.fixtures.lane import RunningLane, a_lane
from tests.fixtures.rows import Rows, delivery, some_rows
from tests.fixtures.service import Answer, Ledger, sent
from tests.fixtures.stack import Databases

SEND = "notification.send.email.normal"
#: A place in the topics is taken once.
_OFFSETS = itertools.count()


class Crash(Exception):
    """The process ends here."""


@dataclass
class Kafka:
    """Writes down what was told; with `crashes`, the process ends before any of it is."""

    crashes: bool = False
    told: list[Outgoing] = field(default_factory=list)

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        if self.crashes and records:
            raise Crash
        self.told += records
        return [(0, next(_OFFSETS)) for _ in records]

    def values(self, topic: str) -> list[dict[str, Any]]:
        return [orjson.loads(record.value or b"") for record in self.told if record.topic == topic]

    def waiting(self) -> list[Outgoing]:
        """What was put off, with its topic and when."""
        return [record for record in self.told if record.topic.startswith("notification.delay.")]


@pytest.fixture(scope="module")
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated) as made:
        yield made


async def work(rows: Rows, kafka: Kafka, ledger: Ledger, *records: Incoming) -> None:
    """A lane that lives until all these are acknowledged."""
    async with lane(rows, kafka, ledger) as running:
        await running.work(records)


def lane(rows: Rows, kafka: Kafka, ledger: Ledger) -> AbstractAsyncContextManager[RunningLane]:
    settings = Settings(
        database_url="postgresql://none/none",
        provider_timeout_seconds=1,
        claim_grace_seconds=1,
        email_retry=RetryPolicy(max_attempts=3, base_seconds=5),
    )
    return a_lane(rows.engine, kafka, ledger, settings=settings)


def record(of: Delivery, offset: int, *headers: tuple[str, bytes]) -> Incoming:
    return Incoming(SEND, 0, offset, 0, of.user_id.encode(), of.record_value(), headers)


def come_back(waiting: Outgoing, offset: int) -> Incoming:
    """The record as the delay line returns it."""
    headers = tuple(pair for pair in waiting.headers if pair[0] not in ("due-at", "return-topic"))
    return Incoming(SEND, 0, offset, 0, waiting.key, waiting.value, headers)


def answering(outcome: Outcome) -> Answer:
    return sent if outcome is Outcome.SENT else lambda _: DeliveryResult(outcome=outcome, provider="ledger", reason="r")


async def end_lease(rows: Rows, of: Delivery) -> None:
    await rows.execute(
        "UPDATE delivery_logs SET lease_until = now() - interval '1 s' WHERE delivery_id = :id", id=of.delivery_id
    )


async def crashed_before_telling(rows: Rows, ledger: Ledger) -> tuple[UUID, Delivery]:
    notification = await rows.queued()
    asked = delivery(notification)
    with pytest.raises(Crash):
        await work(rows, Kafka(crashes=True), ledger, record(asked, 10))
    assert len(ledger.calls) == 1
    return notification, asked


@pytest.mark.parametrize(
    ("outcome", "status", "topics"),
    [
        (Outcome.SENT, "sent", {SENT, STATUS}),
        (Outcome.PERMANENT, "failed", {FAILED, STATUS, DEAD_LETTERS}),
        (Outcome.RETRY, "retrying", {STATUS, "notification.delay.5s"}),
    ],
)
async def test_the_record_that_claimed_tells_again_and_calls_nobody(
    rows: Rows, outcome: Outcome, status: str, topics: set[str]
) -> None:
    ledger = Ledger(answer=answering(outcome))
    notification, asked = await crashed_before_telling(rows, ledger)
    assert await rows.status(notification) == status

    kafka = Kafka()
    await work(rows, kafka, ledger, record(asked, 10))
    assert len(ledger.calls) == 1
    assert {one.topic for one in kafka.told} == topics
    again = Kafka()
    await work(rows, again, ledger, record(asked, 10))
    ids = [[event["event_id"] for event in told.values(STATUS)] for told in (kafka, again)]
    assert ids[0] == ids[1]


async def test_a_copy_of_a_finished_attempt_tells_nothing(rows: Rows) -> None:
    """The request lane may fan out twice; of the two records one claimed, and that one tells."""
    ledger = Ledger()
    _, asked = await crashed_before_telling(rows, ledger)
    kafka = Kafka()
    await work(rows, kafka, ledger, record(asked, 11))
    assert (kafka.told, len(ledger.calls)) == ([], 1)


async def test_a_call_that_was_cut_off_is_made_once_more_and_marked(rows: Rows) -> None:
    """The record waits in its place for the lease's end, then takes over."""
    notification = await rows.queued()
    asked = delivery(notification)
    async with lane(rows, Kafka(), Ledger(latency_seconds=60)) as dying:
        dying.feed([record(asked, 10)])
        await rows.until_claimed(asked)

    ledger, kafka = Ledger(), Kafka()
    async with lane(rows, kafka, ledger) as running:
        running.feed([record(asked, 10)])
        await asyncio.sleep(0.5)
        assert (ledger.calls, kafka.told) == ([], [])
        await end_lease(rows, asked)
        await running.until_empty()
    assert len(ledger.calls) == 1
    [row] = await rows.fetch(
        "SELECT status, ambiguous FROM notification_deliveries WHERE notification_id = :id", id=notification
    )
    assert tuple(row) == ("sent", True)
    assert len(kafka.values(SENT)) == 1


async def test_one_that_finishes_after_a_takeover_tells_what_is_stored(rows: Rows) -> None:
    """Its loop stood still for longer than the lease; meanwhile another one was refused."""
    notification = await rows.queued()
    asked = delivery(notification)
    slow, kafka = Ledger(latency_seconds=0.8), Kafka()
    other, told = Ledger(answer=answering(Outcome.PERMANENT)), Kafka()
    async with lane(rows, kafka, slow) as late:
        late.feed([record(asked, 10)])
        await rows.until_claimed(asked)
        await end_lease(rows, asked)
        await work(rows, told, other, record(asked, 20))
        await late.until_empty()
    assert (len(slow.calls), len(other.calls)) == (1, 1)
    [row] = await rows.fetch("SELECT outcome FROM delivery_logs WHERE delivery_id = :id", id=asked.delivery_id)
    assert row.outcome == "permanent"
    assert await rows.status(notification) == "failed"
    assert kafka.values(SENT) == []
    ids = {event["event_id"] for event in (*kafka.values(STATUS), *told.values(STATUS))}
    assert len(ids) == 1


async def test_a_lost_attempt_among_good_ones_holds_up_its_user_only(rows: Rows) -> None:
    good = [delivery(await rows.queued(), user_id=f"u-{number}") for number in range(20)]
    leased, behind = good[7], delivery(await rows.queued(), user_id="u-7")
    await rows.claim(leased)
    ledger = Ledger()
    async with lane(rows, Kafka(), ledger) as running:
        running.feed([record(one, number) for number, one in enumerate([*good, behind])])
        async with asyncio.timeout(5):
            while len(ledger.calls) < 19:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert {one.user_id for one in ledger.calls} == {f"u-{number}" for number in range(20)} - {"u-7"}
        assert [offset for _, offset in running.acknowledged] == list(range(7)), "nothing behind it"
        await end_lease(rows, leased)
        await running.until_empty()
    assert [one.delivery_id for one in ledger.calls if one.user_id == "u-7"] == [
        leased.delivery_id,
        behind.delivery_id,
    ]


async def test_the_same_attempt_twice_is_called_once(rows: Rows) -> None:
    asked = delivery(await rows.queued())
    ledger, kafka = Ledger(), Kafka()
    await work(rows, kafka, ledger, record(asked, 1), record(asked, 2))
    assert len(ledger.calls) == len(kafka.values(SENT)) == 1


async def test_attempts_end_with_one_dead_letter_whatever_crashes(rows: Rows) -> None:
    """A crash before telling, at every attempt."""
    notification = await rows.queued()
    ledger = Ledger(answer=answering(Outcome.RETRY))
    current = record(delivery(notification), 1_000)
    kafka = Kafka()
    for number in range(1, 4):
        with pytest.raises(Crash):
            await work(rows, Kafka(crashes=True), ledger, current)
        kafka = Kafka()
        await work(rows, kafka, ledger, current)
        assert len(ledger.calls) == number
        if waiting := kafka.waiting():
            current = come_back(waiting[0], 1_000 + number)
    assert [call.attempt for call in ledger.calls] == [1, 2, 3]
    assert len([one for one in kafka.told if one.topic == DEAD_LETTERS]) == 1
    assert len(kafka.values(FAILED)) == 1
    failures = await rows.fetch("SELECT attempts FROM delivery_failures WHERE notification_id = :id", id=notification)
    assert [row.attempts for row in failures] == [3]
    await work(rows, kafka, ledger, current)
    assert len([one for one in kafka.told if one.topic == DEAD_LETTERS]) == 1, "buried once"
