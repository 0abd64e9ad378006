"""Limits while their Valkey is killed, restarted or hangs: nobody waits for it, and nothing becomes unlimited."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from models.enums import Channel, Priority
from models.limits import Scope
from models.repositories import rate_limits
from models.session import create_engine
from models.settings import Settings
from streams.rate_limits import RateLimits, Reservation, open_rate_limits
from tests.fixtures.outages import Outages, own_servers
from tests.fixtures.stack import Databases

EMAIL, HIGH = Channel.EMAIL, Priority.HIGH
RATE, BURST = 100, 40


@pytest.fixture(scope="module")
def redis_alone() -> Iterator[Outages]:
    with own_servers(["valkey"]) as running:
        yield running


@pytest.fixture
async def limits(redis_alone: Outages, postgres: Databases, migrated: str) -> AsyncIterator[RateLimits]:
    """The limits of one of two workers: `smtp` at RATE, and people's `news` at one in ten seconds."""
    url = postgres("limits", template=migrated)
    settings = Settings(
        database_url=url, redis_url=redis_alone.url("valkey"), redis_key_prefix=f"{uuid.uuid4().hex}:", workers=2
    )
    engine = create_engine(settings, name="tests")
    async with engine.begin() as connection:
        await rate_limits.put(connection, Scope.PROVIDER, "smtp", permits=RATE, per_seconds=1, burst=BURST)
        await rate_limits.put(connection, Scope.USER, "news", permits=1, per_seconds=10, burst=1)
    async with open_rate_limits(settings, engine) as opened:
        async with asyncio.timeout(5):
            while not opened.definitions.users:
                await asyncio.sleep(0.02)
        yield opened
    await engine.dispose()
    postgres.drop(url)


class Taker:
    """A lane that takes what it gets, and writes down when and how long that took."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self.grants: list[tuple[float, int]] = []
        self.took: list[float] = []

    async def run(self) -> None:
        while True:
            asked_at = time.monotonic()
            grant = await self._limits.take(EMAIL, "smtp", HIGH, 50)
            self.took.append(time.monotonic() - asked_at)
            self.grants.append((time.monotonic(), grant.granted))
            await asyncio.sleep(max(0.005, grant.wait_seconds))

    def granted(self, since: float, until: float) -> int:
        return sum(count for at, count in self.grants if since <= at <= until)

    def check(self) -> None:
        """Over every window the limit held: RATE and BURST, and when it turns local a second of the local share."""
        for first, (since, _) in enumerate(self.grants):
            for until, _ in self.grants[first::7]:
                assert self.granted(since, until) <= BURST + (until - since) * RATE + RATE / 4 + 1


@pytest.fixture
async def taker(limits: RateLimits) -> AsyncIterator[Taker]:
    running = Taker(limits)
    task = asyncio.create_task(running.run())
    yield running
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_killed_and_back(redis_alone: Outages, taker: Taker) -> None:
    await asyncio.sleep(1.5)
    async with redis_alone.away("valkey"):
        since = time.monotonic()
        await asyncio.sleep(4.0)
        until = time.monotonic()
    assert RATE / 8 <= taker.granted(since + 1, until) / (until - since - 1) <= RATE / 4 + 10  # half of a half
    assert max(taker.took) < 2.0
    async with asyncio.timeout(15):  # at the whole rate again, by itself
        while taker.granted(time.monotonic() - 1, time.monotonic()) < RATE * 0.7:
            await asyncio.sleep(0.1)
    taker.check()


async def test_hung_and_back(redis_alone: Outages, taker: Taker) -> None:
    await asyncio.sleep(1.0)
    async with redis_alone.hung("valkey"):
        since = time.monotonic()
        before = len(taker.took)
        await asyncio.sleep(5.0)
        until = time.monotonic()
        waited = taker.took[before:]
    assert taker.granted(since + 1, until) >= (until - since - 1) * RATE / 8
    assert max(waited) < 1.5
    assert sum(1 for seconds in waited if seconds > 0.3) <= 2  # once, not for each batch
    async with asyncio.timeout(15):
        while taker.granted(time.monotonic() - 1, time.monotonic()) < RATE * 0.7:
            await asyncio.sleep(0.1)
    taker.check()


async def test_reserved_slots_survive_a_restart(redis_alone: Outages, limits: RateLimits) -> None:
    asked = [Reservation(uuid.uuid4(), "u-1", "news") for _ in range(5)]
    first = await limits.reserve(asked)
    async with redis_alone.away("valkey"):
        alone = await limits.reserve([Reservation(uuid.uuid4(), "u-1", "news")])
        assert alone[0] > first[-1]
    async with asyncio.timeout(10):
        while limits._is_away:
            await asyncio.sleep(0.05)
    again = await limits.reserve(asked)
    assert again == pytest.approx([max(0.0, wait - 1) for wait in first], abs=15)
    assert again == sorted(again)
    [following] = await limits.reserve([Reservation(uuid.uuid4(), "u-1", "news")])
    assert following > alone[0]


async def test_a_start_without_redis_limits_from_the_first_moment(postgres: Databases, migrated: str) -> None:
    url = postgres("limits", template=migrated)
    settings = Settings(database_url=url, redis_url="redis://127.0.0.1:1/0")
    engine = create_engine(settings, name="tests")
    async with engine.begin() as connection:
        await rate_limits.put(connection, Scope.PROVIDER, "smtp", permits=RATE, per_seconds=1, burst=BURST)
    async with open_rate_limits(settings, engine) as limits:
        taker = Taker(limits)
        task = asyncio.create_task(taker.run())
        started = time.monotonic()
        await asyncio.sleep(3.0)
        task.cancel()
    await engine.dispose()
    postgres.drop(url)
    granted = taker.granted(started, time.monotonic())
    assert RATE / 2 <= granted <= (time.monotonic() - started) * RATE / 2 + BURST
