"""Kept people are never older than a finished change, in whatever order readers, writers and faults come."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Collection, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError

from models.audience import Person
from streams.people import People
from streams.people_versions import MAX_AGE, PeopleVersions

USER = "u-1"


class Stage:
    """Lets the steps of all actors happen one at a time, in the order that it is told."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []

    async def step(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        await turn

    async def settle(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    async def play(self, actors: list[Coroutine[Any, Any, None]], order: list[int], faults: list[Any]) -> None:
        tasks = [asyncio.create_task(actor) for actor in actors]
        choices = iter(order)
        try:
            while not all(task.done() for task in tasks):
                await self.settle()
                if not self.waiting:
                    continue
                choice = next(choices, 0)
                if choice >= 100 and faults:  # beyond the actors' numbers
                    faults[choice % len(faults)]()
                    continue
                self.waiting.pop(choice % len(self.waiting)).set_result(None)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


class FakeRedis:
    """What the two scripts do, one at a time; can be away, flushed, or lose what it knew in a restart."""

    def __init__(self, stage: Stage | None = None) -> None:
        self._stage = stage
        self.people: dict[str, dict[str, Any]] = {}
        self.run, self.word = "run-0", ""
        self.is_away = False
        self.asked = 0
        self.marked: list[int] = []

    def register_script(self, text: str) -> Any:
        return self._versions if "INFO" in text else self._changes

    def flush(self) -> None:
        self.people, self.word = {}, ""

    def restart(self, kept: dict[str, dict[str, Any]] | None = None) -> None:
        self.run = f"{self.run}+"
        self.people = copy.deepcopy(kept or {})

    async def _answer(self) -> None:
        self.asked += 1
        if self._stage:
            await self._stage.step()
        if self.is_away:
            raise RedisConnectionError("away")

    async def _versions(self, *, keys: list[str], args: list[str]) -> list[Any]:
        await self._answer()
        self.word = self.word or args[0]
        reply: list[Any] = [f"{self.run}{self.word}".encode()]
        for place, key in enumerate(keys[1:]):
            found = self.people.get(key)
            if found:
                reply += [place, b"" if "writers" in found else found["version"].encode()]
        if self._stage:
            await self._stage.step()
        return reply

    async def _changes(self, *, keys: list[str], args: list[Any]) -> int:
        await self._answer()
        writers, version, _ = args
        for key in keys:
            person = self.people.setdefault(key, {})
            person["version"] = version
            if writers:
                person["writers"] = person.get("writers", 0) + writers
                if person["writers"] <= 0:
                    del person["writers"]
        self.marked.append(writers)
        if self._stage:
            await self._stage.step()
        return len(keys)


class Writing(PeopleVersions):
    """Notes that a version was written after the commit."""

    is_finished = False

    async def mark(self, user_ids: Sequence[str], *, writers: int) -> bool:
        is_marked = await super().mark(user_ids, writers=writers)
        self.is_finished |= is_marked and writers <= 0
        return is_marked


class World:
    """A database of one number, and the cache before it."""

    def __init__(self, *, room: int = 10) -> None:
        self.stage = Stage()
        self.redis = FakeRedis(self.stage)
        self.now = 0.0
        self.committed = 0
        #: The newest change that was finished, Redis included.
        self.finished = 0
        self.people = [
            People(self.process(), load=self._load, room=room, at_first_sight=True, clock=self.clock) for _ in range(2)
        ]

    def clock(self) -> float:
        return self.now

    def process(self) -> Writing:
        redis: Any = self.redis
        return Writing(redis, key_prefix="t:", read_seconds=60, write_seconds=60, clock=self.clock)

    async def _load(self, _: Any, user_ids: Collection[str]) -> dict[str, Person]:
        await self.stage.step()
        found = {user_id: Person(user_id=user_id, name=str(self.committed)) for user_id in user_ids}
        await self.stage.step()
        return found

    async def write(self) -> None:
        versions = self.process()
        async with versions.changing(USER):
            await self.stage.step()
            self.committed = mine = self.committed + 1
            await self.stage.step()
        if versions.is_finished:
            self.finished = max(self.finished, mine)
        await versions.close()

    async def read(self, process: int, times: int = 3) -> None:
        for _ in range(times):
            floor = self.finished
            person = (await self.people[process].read(None, [USER]))[USER]  # type: ignore[arg-type]
            assert person.name is not None
            assert int(person.name) >= floor, "a finished change was not seen"

    def faults(self) -> list[Any]:
        before = copy.deepcopy(self.redis.people)

        def away() -> None:
            self.redis.is_away = not self.redis.is_away

        def later() -> None:
            self.now += 4.0

        return [away, self.redis.flush, lambda: self.redis.restart(before), self.redis.restart, later]


orders = st.lists(st.integers(0, 7), max_size=120)
faulty_orders = st.lists(st.one_of(st.integers(0, 7), st.integers(0, 7), st.integers(100, 104)), max_size=120)
often = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@often
@given(orders)
def test_no_finished_change_is_missed(order: list[int]) -> None:
    async def play() -> None:
        world = World()
        actors = [world.write(), world.write(), world.read(0), world.read(0), world.read(1), world.write()]
        await world.stage.play(actors, order, [])
        assert world.finished == world.committed

    asyncio.run(play())


@often
@given(faulty_orders)
def test_nor_when_redis_goes_away_forgets_or_starts_anew(order: list[int]) -> None:
    async def play() -> None:
        world = World()
        actors = [world.write(), world.read(0), world.read(0), world.read(1), world.write()]
        await world.stage.play(actors, order, world.faults())

    asyncio.run(play())


# -- one thing at a time


class Database:
    """Counts how often it is asked, and for whom."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.known = {"u-1", "u-2"}

    async def load(self, _: Any, user_ids: Collection[str]) -> dict[str, Person]:
        self.asked.append(sorted(user_ids))
        return {user_id: Person(user_id=user_id) for user_id in user_ids if user_id in self.known}


class Cache:
    """A cache on a fake Redis, and a clock to turn."""

    def __init__(self, *, room: int = 10, at_first_sight: bool = True) -> None:
        self.now = 0.0
        self.redis = FakeRedis()
        self.database = Database()
        self.versions = PeopleVersions(self.redis, key_prefix="t:", clock=lambda: self.now)  # type: ignore[arg-type]
        self.people = People(
            self.versions,
            load=self.database.load,
            room=room,
            at_first_sight=at_first_sight,
            clock=lambda: self.now,
        )

    async def read(self, *user_ids: str) -> set[str]:
        return set(await self.people.read(None, list(user_ids)))  # type: ignore[arg-type]


async def test_who_is_kept_is_not_read_again_nor_who_is_unknown() -> None:
    cache = Cache()
    assert await cache.read("u-1", "nobody") == {"u-1"}
    assert await cache.read("u-1", "nobody", "u-2") == {"u-1", "u-2"}
    assert cache.database.asked == [["nobody", "u-1"], ["u-2"]]


async def test_a_change_costs_only_the_one_who_changed() -> None:
    cache = Cache()
    await cache.read("u-1", "u-2")
    async with cache.versions.changing("u-1") as change:
        await change.also("u-3", "u-1")
    await cache.read("u-1", "u-2")
    assert cache.database.asked == [["u-1", "u-2"], ["u-1"]]


async def test_nothing_is_kept_while_somebody_writes() -> None:
    cache = Cache()
    async with cache.versions.changing("u-1"):
        async with cache.versions.changing("u-1"):
            await cache.read("u-1")
        await cache.read("u-1")  # the one has finished, the other has not
    await cache.read("u-1")
    await cache.read("u-1")
    assert len(cache.database.asked) == 3


async def test_a_failed_transaction_leaves_no_mark() -> None:
    cache = Cache()
    with pytest.raises(ZeroDivisionError):
        async with cache.versions.changing("u-1"):
            raise ZeroDivisionError
    await cache.read("u-1")
    await cache.read("u-1")
    assert len(cache.database.asked) == 1


@pytest.mark.parametrize("forget", ["flush", "restart"])
@pytest.mark.parametrize("changed_before", [False, True])
async def test_a_redis_that_forgot_a_change_proves_nothing_right(forget: str, changed_before: bool) -> None:
    """It knows what it knew when the person was kept."""
    cache = Cache()
    if changed_before:
        async with cache.versions.changing("u-1"):
            pass
    await cache.read("u-1")
    then = copy.deepcopy(cache.redis.people)
    async with cache.versions.changing("u-1"):
        pass
    if forget == "flush":
        cache.redis.flush()
    else:
        cache.redis.restart(then)
    await cache.read("u-1")
    assert len(cache.database.asked) == 2


async def test_what_is_kept_is_not_kept_for_ever() -> None:
    cache = Cache()
    await cache.read("u-1")
    cache.now += MAX_AGE.total_seconds() + 1
    await cache.read("u-1")
    assert len(cache.database.asked) == 2


async def test_who_is_asked_for_once_takes_no_room() -> None:
    cache = Cache(room=3, at_first_sight=False)
    for number in range(20):
        await cache.read(f"once-{number}")
    assert not cache.people._kept
    for _ in range(3):
        await cache.read("u-1")
    assert cache.database.asked[20:] == [["u-1"], ["u-1"]]


async def test_room_is_bounded() -> None:
    cache = Cache(room=2)
    await cache.read("u-1", "u-2", "u-3")
    assert len(cache.people._kept) == 2


async def test_without_redis_the_database_is_asked_and_redis_only_now_and_then() -> None:
    cache = Cache()
    cache.redis.is_away = True
    for _ in range(20):
        assert await cache.read("u-1") == {"u-1"}
    assert (len(cache.database.asked), cache.redis.asked) == (20, 1)
    cache.redis.is_away = False
    cache.now += 4
    await cache.read("u-1")
    await cache.read("u-1")
    assert len(cache.database.asked) == 21


async def test_a_redis_that_hangs_costs_one_short_wait() -> None:
    cache = Cache()

    async def hang(**_: Any) -> None:
        await asyncio.sleep(60)

    cache.versions._versions = hang  # type: ignore[assignment]
    async with asyncio.timeout(2):
        for _ in range(50):
            await cache.read("u-1")


async def test_a_version_that_could_not_be_written_is_written_later() -> None:
    cache = Cache()
    await cache.read("u-1")
    cache.redis.is_away = True
    async with cache.versions.changing("u-1"):
        pass
    cache.redis.is_away = False
    cache.now += 4
    async with asyncio.timeout(5):
        while not cache.redis.marked:
            await asyncio.sleep(0.05)
    await cache.read("u-1")
    assert len(cache.database.asked) == 2
    await cache.versions.close()


async def test_without_versions_nothing_is_kept() -> None:
    database = Database()
    people = People(load=database.load)
    await people.read(None, ["u-1"])  # type: ignore[arg-type]
    await people.read(None, ["u-1"])  # type: ignore[arg-type]
    assert len(database.asked) == 2
