"""A channel lane at work on a real database: order, slow calls, refused accounts, pace, and its end."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from models.deliveries import Delivery
from models.enums import Channel, Outcome, Priority
from models.settings import RetryPolicy, Settings
from streams.channels.pace import Unpaced
from streams.providers.base import DeliveryResult, NotificationProvider
from streams.rate_limits import Grant
from streams.records import Incoming, Outgoing
from streams.topics import DEAD_LETTERS, SENT
from tests.fixtures.lane import a_lane
from tests.fixtures.rows import Rows, delivery, some_rows
from tests.fixtures.service import Ledger, sent
from tests.fixtures.stack import Databases

_OFFSETS = itertools.count()
QUICK = Settings(
    database_url="postgresql://none/none",
    provider_timeout_seconds=1,
    claim_grace_seconds=0.5,
    email_retry=RetryPolicy(max_attempts=2, base_seconds=5),
)


@dataclass
class Told:
    """Writes down what was told."""

    records: list[Outgoing] = field(default_factory=list)

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        await asyncio.sleep(0)
        self.records += records
        return [(0, next(_OFFSETS)) for _ in records]

    def count(self, topic: str) -> int:
        return sum(record.topic == topic for record in self.records)


@dataclass
class Slow(NotificationProvider):
    """Takes as long as it is told for each delivery, and writes down who came when."""

    name = "slow"
    channel = Channel.EMAIL

    latency_of: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    calls: list[Delivery] = field(default_factory=list)
    ended: list[tuple[float, Delivery]] = field(default_factory=list)

    async def send(self, delivery: Delivery) -> DeliveryResult:
        self.calls.append(delivery)
        await asyncio.sleep(self.latency_of.get(delivery.user_id, self.seconds))
        self.ended.append((time.monotonic(), delivery))
        return DeliveryResult(outcome=Outcome.SENT, provider=self.name)


@pytest.fixture(scope="module")
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated) as made:
        yield made


async def records(rows: Rows, count: int, *, users: int | None = None) -> list[Incoming]:
    """Records of one partition, the users taking turns; none of a user twice by default."""
    asked = [delivery(await rows.queued(), user_id=f"u-{number % (users or count)}") for number in range(count)]
    return [Incoming("", 0, offset, 0, one.user_id.encode(), one.record_value()) for offset, one in enumerate(asked)]


async def test_a_slow_call_holds_up_nobody_but_its_user(rows: Rows) -> None:
    provider = Slow(latency_of={"u-3": 0.9}, seconds=0.01)
    async with a_lane(rows.engine, Told(), provider, settings=QUICK) as lane:
        started = time.monotonic()
        lane.feed(await records(rows, 300, users=100))
        await lane.until_empty()
    others = [at - started for at, one in provider.ended if one.user_id != "u-3"]
    slow = [at - started for at, one in provider.ended if one.user_id == "u-3"]
    assert len(provider.ended) == 300
    assert max(others) < slow[0]
    assert slow[2] - slow[0] >= 1.8, "one after the other"
    assert [offset for _, offset in lane.acknowledged] == list(range(300))


@pytest.mark.parametrize("seed", range(4))
async def test_messages_of_a_user_leave_in_order_whatever_is_killed(rows: Rows, seed: int) -> None:
    """Random delays and answers; lanes are killed at random moments, and what wasn't acknowledged is read again."""
    dice = random.Random(seed)
    incoming = await records(rows, 120, users=12)
    first_calls: dict[str, list[str]] = defaultdict(list)
    sends: dict[str, int] = defaultdict(int)

    class Erratic(Slow):
        async def send(self, delivery: Delivery) -> DeliveryResult:
            if str(delivery.delivery_id) not in first_calls[delivery.user_id]:
                first_calls[delivery.user_id].append(str(delivery.delivery_id))
            await asyncio.sleep(dice.random() ** 3 * 0.3)
            sends[str(delivery.delivery_id)] += 1
            return DeliveryResult(outcome=Outcome.SENT, provider=self.name)

    done = 0
    kills = 0
    while done < len(incoming):
        async with a_lane(rows.engine, Told(), Erratic(), settings=QUICK) as lane:
            lane.feed(incoming[done:])
            if kills < 4:
                kills += 1
                await asyncio.sleep(0.1 + dice.random() / 2)
            else:
                await lane.until_empty(60)
        done += len(lane.acknowledged)
    expected: dict[str, list[str]] = defaultdict(list)
    for record in incoming:
        one = Delivery.model_validate_json(record.value or b"")
        expected[one.user_id].append(str(one.delivery_id))
    assert first_calls == expected
    assert sum(sends.values()) - len(sends) <= 4 * 12, "no more than a kill leaves in doubt"


async def test_a_refused_account_burns_nothing_and_goes_on_by_itself(rows: Rows) -> None:
    answers = {"now": Outcome.BROKEN}
    ledger = Ledger(answer=lambda _: DeliveryResult(outcome=answers["now"], provider="ledger", reason="401"))
    told = Told()
    incoming = await records(rows, 40)
    async with a_lane(rows.engine, told, ledger, settings=QUICK) as lane:
        lane.feed(incoming)
        async with asyncio.timeout(10):
            while not ledger.calls:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        calls = len(ledger.calls)
        assert calls <= 40, "held: nobody is called a second time"
        ids = [Delivery.model_validate_json(record.value or b"").delivery_id for record in incoming]
        open_claims = await rows.fetch("SELECT 1 FROM delivery_logs WHERE delivery_id = ANY(:ids)", ids=ids)
        assert open_claims == [], "claims are given back"
        assert (told.records, len(ledger.calls)) == ([], calls)
        answers["now"] = Outcome.SENT
        await lane.until_empty(30)
    rows_of = await rows.fetch("SELECT attempt, takeovers FROM delivery_logs WHERE delivery_id = ANY(:ids)", ids=ids)
    assert [tuple(row) for row in rows_of] == [(1, 0)] * 40
    assert (told.count(SENT), told.count(DEAD_LETTERS)) == (40, 0)


class Paced(Unpaced):
    """Grants a few, then nothing for a while."""

    def __init__(self) -> None:
        self.granted: list[tuple[float, int]] = []
        self.returned = 0

    async def take(self, channel: Channel, provider: str, priority: Priority, wanted: int) -> Grant:
        now = time.monotonic()
        recent = sum(count for at, count in self.granted if now - at < 0.2)
        if recent >= 10:
            return Grant(0, 0.05)
        self.granted.append((now, min(wanted, 10 - recent)))
        return Grant(min(wanted, 10 - recent), 0.0)

    async def give_back(self, channel: Channel, provider: str, count: int) -> None:
        self.returned += count


async def test_the_pace_is_kept_and_lost_claims_give_their_tokens_back(rows: Rows) -> None:
    ledger, pace = Ledger(), Paced()
    incoming = await records(rows, 50)
    over = delivery(await rows.queued(), user_id="over")
    await rows.claim(over)
    lost = Incoming("", 0, 50, 0, b"over", over.record_value())
    async with a_lane(rows.engine, Told(), ledger, settings=QUICK, limits=pace) as lane:
        lane.feed([*incoming, lost])
        started = time.monotonic()
        async with asyncio.timeout(10):
            while len(ledger.calls) < 50 or not pace.returned:
                await asyncio.sleep(0.01)
        assert time.monotonic() - started >= 0.75


async def test_the_end_waits_for_calls_under_way_and_starts_no_more(rows: Rows) -> None:
    provider = Slow(seconds=0.4)
    incoming = await records(rows, 20, users=10)
    async with a_lane(rows.engine, Told(), provider, settings=QUICK) as lane:
        lane.feed(incoming)
        async with asyncio.timeout(5):
            while len(provider.calls) < 10:
                await asyncio.sleep(0.01)
        prefixes = await lane.sender.quiesce(is_ending=True)
        assert (len(provider.calls), len(provider.ended)) == (10, 10)
        assert prefixes == {0: 10}


async def test_a_rebalance_lets_go_of_slow_calls_and_records_them(rows: Rows) -> None:
    provider = Slow(latency_of={"u-2": 0.9}, seconds=0.01)
    quick = QUICK.model_copy(update={"provider_timeout_seconds": 3.0})
    incoming = await records(rows, 6)
    async with a_lane(rows.engine, Told(), Slow(latency_of={"u-2": 2.0}), settings=quick) as lane:
        lane.feed(incoming)
        await asyncio.sleep(0.3)
        started = time.monotonic()
        assert await lane.sender.quiesce(is_ending=False) == {0: 2}
        assert 0.9 < time.monotonic() - started < 1.6
        assert len(lane.sender.window) == 0
        lane.feed(incoming[2:])  # they are ours again
        await lane.until_empty()
        assert [offset for _, offset in lane.acknowledged] == [0, 1, 2, 3, 4, 5]
    assert provider.calls == []
    ids = [Delivery.model_validate_json(record.value or b"").delivery_id for record in incoming]
    logs = await rows.fetch("SELECT takeovers, outcome FROM delivery_logs WHERE delivery_id = ANY(:ids)", ids=ids)
    assert [tuple(row) for row in logs] == [(0, "sent")] * 6, "called once each"


async def test_a_failing_step_ends_the_lane(rows: Rows) -> None:
    class Failing:
        async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
            raise RuntimeError("lost its head")

    async with a_lane(rows.engine, Failing(), Ledger(answer=sent), settings=QUICK) as lane:
        lane.feed(await records(rows, 3))
        with pytest.raises(RuntimeError, match="lost its head"):
            await lane.until_empty(5)
        assert lane.acknowledged == []
