"""What limits cost: `pytest tests/performance/test_limits_speed.py --benchmark-only` prints the table."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from redis.asyncio import Redis

from models.enums import Channel, Priority
from models.limits import Limit, Scope
from models.settings import Settings
from streams.domain.limits import Definitions
from streams.rate_limits import LimitScripts, RateLimits, Reservation, limits_redis

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
BATCH = 250


def a_limit(scope: Scope, target: str, permits: int) -> Limit:
    return Limit(
        scope=scope,
        target=target,
        permits=permits,
        per_seconds=1,
        burst=permits,
        created_at=LONG_AGO,
        updated_at=LONG_AGO,
    )


DEFINED = Definitions.of(
    [
        a_limit(Scope.CHANNEL, "email", 1_000_000),
        a_limit(Scope.PROVIDER, "smtp", 1_000_000),
        a_limit(Scope.USER, "news", 1000),
    ]
)


class Runner:
    """Runs coroutines on a loop of its own, so that only the calls are measured."""

    def __init__(self, valkey: str) -> None:
        self._loop = asyncio.new_event_loop()
        settings = Settings(database_url="postgresql://none/none", redis_url=valkey.removesuffix("/0") + "/8")
        self.redis: Redis = limits_redis(settings)
        self.limits = RateLimits(LimitScripts(self.redis, key_prefix=""))
        self.limits.define(DEFINED)

    def __call__(self, work: Callable[[], Awaitable[Any]]) -> Any:
        return self._loop.run_until_complete(work())

    def close(self) -> None:
        self(self.redis.flushdb)
        self(self.redis.aclose)
        self._loop.close()


@pytest.fixture
def run(valkey: str) -> Iterator[Runner]:
    runner = Runner(valkey)
    yield runner
    runner.close()


@pytest.mark.parametrize("wanted", [1, BATCH])
def test_a_take_from_two_buckets(benchmark: BenchmarkFixture, run: Runner, wanted: int) -> None:
    take = lambda: run.limits.take(Channel.EMAIL, "smtp", Priority.NORMAL, wanted)  # noqa: E731
    assert benchmark(run, take).granted == wanted


def test_a_take_without_limits(benchmark: BenchmarkFixture, run: Runner) -> None:
    run.limits.define(Definitions())
    assert benchmark(run, lambda: run.limits.take(Channel.EMAIL, "smtp", Priority.LOW, BATCH)).granted == BATCH


@pytest.mark.parametrize("people", [1, BATCH])
def test_slots_for_a_batch(benchmark: BenchmarkFixture, run: Runner, people: int) -> None:
    """One Lua call, whether they are of one person or of as many."""
    asked = [Reservation(uuid.uuid4(), f"u-{number % people}", "news") for number in range(BATCH)]
    ids = iter(uuid.uuid4, None)

    def fresh() -> tuple[tuple[Any], dict[str, Any]]:
        batch = [Reservation(next(ids), one.user_id, one.category) for one in asked]
        return ((lambda: run.limits.reserve(batch)),), {}

    waits = benchmark.pedantic(run, setup=fresh, rounds=200)  # type: ignore[no-untyped-call]
    assert len(waits) == BATCH


def test_a_take_alone(benchmark: BenchmarkFixture) -> None:
    """While Redis is away."""
    settings = Settings(database_url="postgresql://none/none", redis_url="redis://127.0.0.1:1/0")
    limits = RateLimits(LimitScripts(limits_redis(settings), key_prefix=""))
    limits.define(DEFINED)
    loop = asyncio.new_event_loop()
    take = lambda: loop.run_until_complete(limits.take(Channel.EMAIL, "smtp", Priority.HIGH, 1))  # noqa: E731
    assert benchmark(take).granted <= 1
    loop.close()
