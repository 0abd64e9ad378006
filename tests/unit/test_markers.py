"""Markers against a Redis that is played: what is kept, found, and told when it does not answer."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from redis.exceptions import OutOfMemoryError

from models.enums import Priority
from models.errors import Unavailable
from streams.markers import Marker, Markers

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Pipeline:
    """Collects commands and does them at once."""

    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis
        self._commands: list[Any] = []

    async def __aenter__(self) -> Pipeline:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to let go of."""

    def set(self, key: str, value: bytes, *, ex: int, nx: bool = False) -> None:
        self._commands.append(lambda: self._redis.put(key, value, nx=nx))

    def mget(self, keys: list[str]) -> None:
        self._commands.append(lambda: [self._redis.kept.get(key) for key in keys])

    async def execute(self) -> list[Any]:
        await self._redis.answer()
        return [command() for command in self._commands]


class FakeRedis:
    """Keeps in memory; hangs or refuses as told."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.trips = 0
        self.error: Exception | None = None

    async def answer(self) -> None:
        self.trips += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error

    def put(self, key: str, value: bytes, *, nx: bool) -> None:
        if not (nx and key in self.kept):
            self.kept[key] = value

    def pipeline(self, *, transaction: bool) -> Pipeline:
        return Pipeline(self)

    async def mget(self, keys: list[str]) -> list[bytes | None]:
        await self.answer()
        return [self.kept.get(key) for key in keys]

    async def exists(self, key: str) -> int:
        await self.answer()
        return int(key in self.kept)


@pytest.fixture
def redis() -> FakeRedis:
    return FakeRedis()


@pytest.fixture
def markers(redis: FakeRedis) -> Markers:
    return Markers(redis, key_prefix="t:")  # type: ignore[arg-type]


def a_marker(number: int = 1, *, fingerprint: bytes = b"\x00\xff") -> Marker:
    return Marker(
        id=UUID(int=number),
        user_id="u-1",
        client="shop",
        fingerprint=fingerprint,
        category="orders",
        priority=Priority.HIGH,
        created_at=NOW,
        metadata={"order": "4711"},
        expires_at=NOW,
    )


async def test_what_is_kept_is_found_as_it_was(markers: Markers) -> None:
    assert await markers.find(UUID(int=1)) is None
    assert await markers.keep(a_marker()) == a_marker()
    assert await markers.find(UUID(int=1)) == a_marker()


async def test_the_first_stands(markers: Markers) -> None:
    await markers.keep(a_marker())
    assert (await markers.keep(a_marker(fingerprint=b"other"))).fingerprint == a_marker().fingerprint


async def test_a_crowd_shares_round_trips(markers: Markers, redis: FakeRedis) -> None:
    kept = await asyncio.gather(*(markers.keep(a_marker(number)) for number in range(1, 151)))
    assert [marker.id.int for marker in kept] == list(range(1, 151))
    assert redis.trips <= 2


@pytest.mark.parametrize("error", [ConnectionRefusedError(), OutOfMemoryError("full")])
async def test_what_redis_does_not_take_is_not_kept(markers: Markers, redis: FakeRedis, error: Exception) -> None:
    redis.error = error
    for _ in range(4):
        with pytest.raises(Unavailable):
            await markers.keep(a_marker())
        with pytest.raises(Unavailable):
            await markers.find(UUID(int=1))
    assert redis.trips < 8, "a server that fails is asked by each caller"


async def test_nobody_asks_for_markers_while_there_are_none(markers: Markers, redis: FakeRedis) -> None:
    for _ in range(5):
        assert await markers.of([UUID(int=1)]) == {}
        await asyncio.sleep(0.01)
    assert redis.trips == 1  # whether there are any
    await markers.keep(a_marker())
    assert await markers.of([UUID(int=1), UUID(int=2)]) == {UUID(int=1): a_marker()}


async def test_markers_of_another_process_are_seen(markers: Markers, redis: FakeRedis) -> None:
    await Markers(redis, key_prefix="t:").keep(a_marker())  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        while not await markers.of([UUID(int=1)]):
            await asyncio.sleep(0.01)


async def test_with_postgres_there_redis_may_be_away(markers: Markers, redis: FakeRedis) -> None:
    await markers.keep(a_marker())
    redis.error = ConnectionRefusedError()
    assert await markers.of([UUID(int=1)]) == {}
