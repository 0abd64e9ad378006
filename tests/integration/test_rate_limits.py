"""Limits on a real Valkey: what is granted, to whom, and what happens when it forgets, hangs or is away."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from models.enums import Channel, Priority
from models.limits import Limit, Scope
from models.settings import Settings
from streams.domain.limits import Bucket, Definitions, Rate
from streams.rate_limits import RateLimits, Reservation, limits_redis
from streams.rate_limits.scripts import LimitScripts
from streams.rate_limits.service import AWAY_SECONDS

EMAIL, HIGH, NORMAL, LOW = Channel.EMAIL, Priority.HIGH, Priority.NORMAL, Priority.LOW
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
BUCKET = "limit:bucket:provider:smtp"


@pytest.fixture
async def redis(valkey: str) -> AsyncIterator[Redis]:
    """A database of its own, empty."""
    async with Redis.from_url(valkey.removesuffix("/0") + "/9") as client:
        await client.flushdb()
        yield client
        await client.flushdb()


@pytest.fixture
def scripts(redis: Redis) -> LimitScripts:
    return LimitScripts(redis, key_prefix="")


@pytest.fixture
def limits(scripts: LimitScripts) -> RateLimits:
    return RateLimits(scripts)


def a_limit(scope: Scope, target: str, permits: int, per_seconds: int = 1, burst: int = 10, **more: Any) -> Limit:
    return Limit(
        scope=scope,
        target=target,
        permits=permits,
        per_seconds=per_seconds,
        burst=burst,
        **{"created_at": LONG_AGO, "updated_at": LONG_AGO, **more},
    )


def smtp(permits: int, *, per_seconds: int = 1, burst: int = 10) -> Limit:
    return a_limit(Scope.PROVIDER, "smtp", permits, per_seconds, burst)


async def fill(redis: Redis, tokens: float, key: str = BUCKET) -> None:
    """Puts so many tokens into a bucket, as of now."""
    seconds, microseconds = await redis.time()
    await redis.hset(key, mapping={"tokens": str(tokens), "at": str(seconds * 1_000_000 + microseconds)})


async def tokens(redis: Redis, key: str = BUCKET) -> float:
    """What a bucket had when it was written last."""
    return float(await redis.hget(key, "tokens") or "nan")


async def times(redis: Redis) -> tuple[bytes | str, float, float]:
    """The only person's bucket: its key, when it is full, and when it was written, in its own microseconds."""
    [key] = await redis.keys("limit:user:*")
    until_full, written = (float(part) for part in (await redis.get(key) or b"").split())
    return key, until_full, written


# -- shared buckets


async def test_without_limits_all_is_granted_and_nothing_is_kept(limits: RateLimits, redis: Redis) -> None:
    limits.define(Definitions())
    grant = await limits.take(EMAIL, "smtp", LOW, 5000)
    assert (grant.granted, grant.wait_seconds) == (5000, 0.0)
    assert await redis.keys("*") == []


async def test_nothing_is_granted_before_the_definitions_are_known(limits: RateLimits) -> None:
    grant = await limits.take(EMAIL, "smtp", HIGH, 1)
    assert grant.granted == 0
    assert 0 < grant.wait_seconds < 1
    assert limits.is_limited("news")


async def test_an_unknown_bucket_starts_with_one_second_of_its_rate(limits: RateLimits) -> None:
    limits.define(Definitions.of([smtp(20, burst=1000)]))
    grant = await limits.take(EMAIL, "smtp", HIGH, 5000)
    assert grant.granted == 20
    assert 0.02 <= grant.wait_seconds <= 0.06


async def test_a_slow_bucket_starts_with_less_than_one(limits: RateLimits) -> None:
    limits.define(Definitions.of([smtp(6, per_seconds=60, burst=100)]))
    grant = await limits.take(EMAIL, "smtp", HIGH, 10)
    assert grant.granted == 0
    assert grant.wait_seconds == pytest.approx(9.0, abs=0.1)  # a tenth of a token is there


async def test_a_flushed_server_gives_one_second_of_the_rate(limits: RateLimits, redis: Redis) -> None:
    limits.define(Definitions.of([smtp(50, burst=1000)]))
    await limits.take(EMAIL, "smtp", HIGH, 1)
    await fill(redis, 1000)
    await redis.flushdb()
    assert (await limits.take(EMAIL, "smtp", HIGH, 5000)).granted == 50


@pytest.mark.parametrize(("priority", "most"), [(HIGH, 100), (NORMAL, 90), (LOW, 80)])
async def test_lower_priorities_leave_the_last_of_a_bucket(
    limits: RateLimits, redis: Redis, priority: Priority, most: int
) -> None:
    limits.define(Definitions.of([smtp(1, per_seconds=1000, burst=100)]))
    await fill(redis, 100)
    assert (await limits.take(EMAIL, "smtp", priority, 5000)).granted == most
    assert (await limits.take(EMAIL, "smtp", priority, 1)).granted == 0
    assert (await limits.take(EMAIL, "smtp", HIGH, 5000)).granted == 100 - most


async def test_a_bucket_of_one_serves_every_priority(limits: RateLimits, redis: Redis) -> None:
    limits.define(Definitions.of([smtp(10, burst=1)]))
    for priority in Priority:
        await fill(redis, 1)
        assert (await limits.take(EMAIL, "smtp", priority, 3)).granted == 1


async def test_two_limits_grant_what_both_have_and_both_pay(limits: RateLimits, redis: Redis) -> None:
    channel = a_limit(Scope.CHANNEL, "email", 1, 1000, 100)
    limits.define(Definitions.of([channel, smtp(1, per_seconds=1000, burst=100)]))
    await fill(redis, 30, "limit:bucket:channel:email")
    await fill(redis, 100)
    grant = await limits.take(EMAIL, "smtp", HIGH, 50)
    assert grant.granted == 30
    assert grant.wait_seconds > 900  # the channel's next token, not the provider's
    assert await tokens(redis, "limit:bucket:channel:email") == pytest.approx(0, abs=0.01)
    assert await tokens(redis) == pytest.approx(70, abs=0.01)
    assert (await limits.take(EMAIL, "sendgrid", HIGH, 1)).granted == 0
    assert (await limits.take(Channel.SMS, "smtp", HIGH, 500)).granted == 70


async def test_what_was_not_used_is_given_back_and_no_more(limits: RateLimits, redis: Redis) -> None:
    limits.define(Definitions.of([smtp(1, per_seconds=1000, burst=100)]))
    await fill(redis, 50)
    assert (await limits.take(EMAIL, "smtp", HIGH, 40)).granted == 40
    await limits.give_back(EMAIL, "smtp", 15)
    assert (await limits.take(EMAIL, "smtp", HIGH, 100)).granted == 25
    await limits.give_back(EMAIL, "smtp", 10_000)  # never more than were taken, nor than the bucket holds
    assert (await limits.take(EMAIL, "smtp", HIGH, 10_000)).granted == 50


async def test_refunds_do_not_make_a_bucket(limits: RateLimits, redis: Redis) -> None:
    limits.define(Definitions.of([smtp(10, burst=100)]))
    await limits.take(EMAIL, "smtp", HIGH, 10)
    await redis.flushdb()
    await limits.give_back(EMAIL, "smtp", 10)
    assert await redis.keys("*bucket*") == []


async def test_idle_buckets_vanish(limits: RateLimits, redis: Redis) -> None:
    limits.define(Definitions.of([smtp(10, burst=100), a_limit(Scope.USER, "*", 10, burst=1)]))
    await limits.take(EMAIL, "smtp", HIGH, 10)
    await limits.reserve([a_request()])
    lasting = {b"limit:born"}
    for key in await redis.keys("*"):
        assert (await redis.pttl(key) > 0) == (key not in lasting), key


async def test_a_clock_that_goes_back_stalls_nobody(limits: RateLimits, redis: Redis) -> None:
    limits.define(Definitions.of([smtp(1000, burst=1000)]))
    seconds, _ = await redis.time()
    await redis.hset(BUCKET, mapping={"tokens": "5", "at": str((seconds + 3600) * 1_000_000)})
    assert 5 <= (await limits.take(EMAIL, "smtp", HIGH, 1000)).granted <= 6
    await asyncio.sleep(0.05)
    assert 40 <= (await limits.take(EMAIL, "smtp", HIGH, 1000)).granted < 1000


async def test_thirds_come_to_whole_tokens(limits: RateLimits, redis: Redis) -> None:
    limits.define(Definitions.of([smtp(1, per_seconds=1000, burst=100)]))
    await fill(redis, 0.9999999)
    assert (await limits.take(EMAIL, "smtp", HIGH, 5)).granted == 1


async def test_a_slow_bucket_that_is_asked_often_fills_all_the_same(limits: RateLimits, redis: Redis) -> None:
    """Each time a small part of a token has come; rounded away, there would never be one."""
    limits.define(Definitions.of([smtp(20, burst=50)]))
    await fill(redis, 0)
    until, granted = time.monotonic() + 1.0, 0
    while time.monotonic() < until:
        granted += (await limits.take(EMAIL, "smtp", HIGH, 5)).granted
        await asyncio.sleep(0.002)
    assert 17 <= granted <= 21


async def test_garbage_in_a_bucket_counts_as_unknown(limits: RateLimits, redis: Redis) -> None:
    limits.define(Definitions.of([smtp(20, burst=1000)]))
    await redis.hset(BUCKET, mapping={"tokens": "many", "at": "soon"})
    assert (await limits.take(EMAIL, "smtp", HIGH, 5000)).granted == 20


@pytest.mark.parametrize("rate", [40, 400])
async def test_many_takers_never_get_more_than_the_rate_and_the_burst(valkey: str, redis: Redis, rate: int) -> None:
    """Eight processes' worth of lanes ask as fast as they can; every window of what they got is looked at."""
    taken: list[tuple[float, float, int]] = []

    async def taker(seed: int) -> None:
        chance = random.Random(seed)
        client = Redis.from_url(valkey.removesuffix("/0") + "/9")
        own = RateLimits(LimitScripts(client, key_prefix=""))
        own.define(Definitions.of([smtp(rate, burst=30)]))
        until = time.monotonic() + 2.0
        while (asked_at := time.monotonic()) < until:
            grant = await own.take(EMAIL, "smtp", chance.choice(list(Priority)), chance.randint(1, 40))
            unused = chance.randint(0, grant.granted) if chance.random() < 0.2 else 0
            if unused:
                await own.give_back(EMAIL, "smtp", unused)
            taken.append((asked_at, time.monotonic(), grant.granted - unused))
            await asyncio.sleep(min(grant.wait_seconds, 0.05) * chance.random())
        await client.aclose()

    await asyncio.gather(*(taker(seed) for seed in range(8)))
    assert sum(count for *_, count in taken) > rate  # it was given out at all
    taken.sort()
    for place in range(0, len(taken), max(1, len(taken) // 60)):
        since = taken[place][0]
        for last in range(place, len(taken), max(1, len(taken) // 60)):
            until = max(one[1] for one in taken[place : last + 1])
            got = sum(one[2] for one in taken[place:] if one[1] <= until)
            assert got <= 30 + (until - since) * rate + 1


async def test_low_leaves_room_for_high_while_it_is_busy(limits: RateLimits) -> None:
    limits.define(Definitions.of([smtp(200, burst=100)]))
    until = time.monotonic() + 1.5
    refused = []

    async def bulk() -> None:
        while time.monotonic() < until:
            grant = await limits.take(EMAIL, "smtp", LOW, 50)
            await asyncio.sleep(grant.wait_seconds)

    async def urgent() -> None:
        await asyncio.sleep(0.7)
        while time.monotonic() < until:
            grant = await limits.take(EMAIL, "smtp", HIGH, 1)
            refused.append(1 - grant.granted)
            await asyncio.sleep(0.02)

    await asyncio.gather(bulk(), bulk(), urgent())
    assert len(refused) > 20
    assert sum(refused) == 0


# -- the same sums in Lua and Python


async def test_lua_and_python_count_alike(scripts: LimitScripts, redis: Redis) -> None:
    chance = random.Random(7)
    for _ in range(150):
        burst, tokens = chance.randint(1, 1000), chance.random() * 1000
        limit = smtp(1, per_seconds=1000, burst=burst)
        rate, priority, wanted = Rate(0.001, float(burst)), chance.choice(list(Priority)), chance.randint(1, 1200)
        await fill(redis, tokens)
        bucket = Bucket(min(float(burst), tokens), 0.0)
        granted = min(wanted, bucket.available(rate, priority))
        bucket.tokens -= granted
        taken = await scripts.take([limit], "smtp", priority, wanted)
        assert taken.granted == granted
        if granted < wanted:
            expected = bucket.wait_seconds(rate, priority, wanted - granted)
            assert taken.wait_seconds == pytest.approx(expected, rel=0.001, abs=1.0)


# -- holds


async def test_a_hold_is_everybodys(limits: RateLimits, scripts: LimitScripts) -> None:
    other = RateLimits(scripts)
    for one in (limits, other):
        one.define(Definitions())
    await limits.hold("smtp", 0.6)
    for one in (limits, other):
        grant = await one.take(EMAIL, "smtp", HIGH, 10)
        assert (grant.granted, grant.is_held) == (0, True)
        assert 0.4 < grant.wait_seconds <= 0.6
        assert (await one.take(EMAIL, "sendgrid", HIGH, 10)).granted == 10
    await asyncio.sleep(0.65)
    for one in (limits, other):
        assert (await one.take(EMAIL, "smtp", HIGH, 10)).granted == 10


async def test_of_two_holds_the_longer_counts(limits: RateLimits, scripts: LimitScripts) -> None:
    other = RateLimits(scripts)
    other.define(Definitions())
    await limits.hold("smtp", 20)
    await limits.hold("smtp", 1)
    assert (await other.take(EMAIL, "smtp", HIGH, 1)).wait_seconds > 19
    await limits.hold("smtp", -5)
    assert (await other.take(EMAIL, "smtp", HIGH, 1)).wait_seconds > 19


async def test_a_held_provider_loses_no_tokens(limits: RateLimits, redis: Redis) -> None:
    limits.define(Definitions.of([smtp(1, per_seconds=1000, burst=100)]))
    await fill(redis, 50)
    await redis.set("limit:hold:smtp", "1", px=200)
    assert (await limits.take(EMAIL, "smtp", HIGH, 10)).granted == 0
    await asyncio.sleep(0.25)
    assert (await limits.take(EMAIL, "smtp", HIGH, 100)).granted == 50


# -- slots of people


def a_request(user: str = "u-1", category: str = "news") -> Reservation:
    return Reservation(uuid.uuid4(), user, category)


def news(permits: int = 2, *, per_seconds: int = 1, burst: int = 3, **more: Any) -> Definitions:
    return Definitions.of([a_limit(Scope.USER, "news", permits, per_seconds, burst, **more)])


async def remember_since(redis: Redis, age: timedelta) -> None:
    """Makes the server one that has forgotten nothing for so long."""
    seconds, _ = await redis.time()
    await redis.set("limit:born", str(int(seconds - age.total_seconds())))


@pytest.fixture
async def old(redis: Redis) -> None:
    """The server remembers all since before the limits were defined."""
    await redis.set("limit:born", str(int(LONG_AGO.timestamp()) - 10))


async def test_a_flood_gets_slots_at_the_pace_and_others_are_not_held_up(limits: RateLimits, old: None) -> None:
    limits.define(news(permits=2, burst=3))
    asked = [a_request() for _ in range(500)]
    waits: list[float] = []
    for batch in range(0, 500, 125):
        waits += await limits.reserve([*asked[batch : batch + 125], a_request(f"u-other-{batch}")])
        assert waits.pop() == 0
    assert waits[:3] == [0, 0, 0]
    assert waits == sorted(waits)
    assert waits[3] == pytest.approx(0.5, abs=0.05)
    assert waits[-1] == pytest.approx(497 / 2, abs=1.0)
    gaps = [later - earlier for earlier, later in itertools.pairwise(waits[3:125])]
    assert all(gap == pytest.approx(0.5, abs=0.001) for gap in gaps)


async def test_what_has_no_limit_waits_for_nothing_and_asks_nobody(limits: RateLimits, redis: Redis) -> None:
    limits.define(news())
    assert await limits.reserve([a_request(category="billing") for _ in range(50)]) == [0.0] * 50
    assert await redis.keys("*") == []
    assert not limits.is_limited("billing")
    assert limits.is_limited("news")


async def test_the_limit_of_all_holds_for_each_category_by_itself(limits: RateLimits, old: None) -> None:
    every = a_limit(Scope.USER, "*", 1, 60, 2)
    limits.define(Definitions.of([every, a_limit(Scope.USER, "news", 1, 60, 1)]))
    asked = [a_request(category=category) for category in ("a", "b", "a", "a", "news", "b", "news")]
    waits = await limits.reserve(asked)
    assert [wait > 0 for wait in waits] == [False, False, False, True, False, False, True]


async def test_slots_are_given_out_when_the_limits_are_known_and_not_before(limits: RateLimits, old: None) -> None:
    async def define() -> None:
        await asyncio.sleep(0.05)
        limits.define(news(burst=3))

    waits, _ = await asyncio.gather(limits.reserve([a_request() for _ in range(4)]), define())
    assert waits[3] > 0


async def test_asking_again_gives_the_same_slot(limits: RateLimits, scripts: LimitScripts, old: None) -> None:
    limits.define(news(permits=1, per_seconds=10, burst=1))
    asked = [a_request() for _ in range(5)]
    first = await limits.reserve(asked)
    other = RateLimits(scripts)  # after a crash, with other batches
    other.define(limits.definitions)
    again = [(await other.reserve([one]))[0] for one in reversed(asked)][::-1]
    assert again == pytest.approx(first, abs=0.2)
    [following] = await other.reserve([a_request()])
    assert following == pytest.approx(50, abs=0.3)


async def test_what_is_forgotten_gets_a_later_slot_never_an_earlier_one(
    limits: RateLimits, redis: Redis, old: None
) -> None:
    limits.define(news(permits=1, per_seconds=10, burst=1))
    asked = [a_request() for _ in range(3)]
    first = await limits.reserve(asked)
    for key in await redis.keys("limit:slot:*"):
        await redis.delete(key)
    again = await limits.reserve(asked)
    assert all(later > earlier + 20 for earlier, later in zip(first, again, strict=True))


async def test_people_are_told_apart_whatever_they_are_called(limits: RateLimits, old: None) -> None:
    limits.define(Definitions.of([a_limit(Scope.USER, "b:c", 1, 60, 1), a_limit(Scope.USER, "c", 1, 60, 1)]))
    waits = await limits.reserve([a_request("a", "b:c"), a_request("a:b", "c"), a_request("3:a:b", "c")])
    assert waits == [0, 0, 0]


async def test_a_person_that_was_quiet_has_the_burst_again(limits: RateLimits, old: None) -> None:
    limits.define(news(permits=20, burst=3))
    assert (await limits.reserve([a_request() for _ in range(4)]))[3] > 0
    await asyncio.sleep(0.35)
    assert (await limits.reserve([a_request() for _ in range(3)])) == [0, 0, 0]


async def test_a_server_that_lost_its_data_gives_one_second_of_the_rate(limits: RateLimits, redis: Redis) -> None:
    limits.define(news(permits=5, burst=100))
    waits = await limits.reserve([a_request("u-unknown") for _ in range(20)])
    assert sum(1 for wait in waits if wait == 0) == 5
    await remember_since(redis, timedelta(seconds=2))  # two seconds later there are two more of them
    waits = await limits.reserve([a_request("u-also-unknown") for _ in range(20)])
    assert 15 <= sum(1 for wait in waits if wait == 0) <= 20


async def test_a_limit_that_is_younger_than_the_servers_memory_starts_full(limits: RateLimits, redis: Redis) -> None:
    await remember_since(redis, timedelta(seconds=30))
    limits.define(news(permits=1, per_seconds=3600, burst=4, created_at=datetime.now(UTC)))
    assert [wait > 0 for wait in await limits.reserve([a_request() for _ in range(5)])] == [False] * 4 + [True]


async def test_a_flood_goes_on_at_its_pace_when_the_server_forgets(limits: RateLimits, redis: Redis, old: None) -> None:
    limits.define(news(permits=2, burst=1))
    waits = await limits.reserve([a_request() for _ in range(101)])
    await redis.flushdb()
    [following] = await limits.reserve([a_request()])
    assert following == pytest.approx(waits[-1] + 0.5, abs=0.1)


async def test_a_clock_that_goes_back_makes_nobody_wait_longer(limits: RateLimits, redis: Redis, old: None) -> None:
    limits.define(news(permits=2, burst=1))
    other = RateLimits(limits._scripts)
    other.define(limits.definitions)
    await limits.reserve([a_request() for _ in range(3)])
    key, until_full, written = await times(redis)
    hour = 3_600_000_000
    await redis.set(key, f"{until_full + hour:.17g} {written + hour:.0f}")  # written an hour ahead of now
    [wait] = await other.reserve([a_request()])
    assert wait == pytest.approx(1.5, abs=0.1)


async def test_slots_that_no_calendar_has(limits: RateLimits, redis: Redis, old: None) -> None:
    limits.define(news(permits=1, per_seconds=2_678_400, burst=1))
    await limits.reserve([a_request()])
    key, _, written = await times(redis)
    await redis.set(key, f"{1e21:.17g} {written:.0f}")
    [wait] = await limits.reserve([a_request()])
    assert wait == pytest.approx(1e10, rel=0.1)


# -- away


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def nowhere() -> RateLimits:
    settings = Settings(database_url="postgresql://localhost/x", redis_url="redis://127.0.0.1:1/0")
    return RateLimits(LimitScripts(limits_redis(settings), key_prefix=""), workers=2, clock=Clock())


async def test_away_each_process_uses_half_its_share() -> None:
    limits = nowhere()
    clock: Any = limits._clock
    limits.define(Definitions.of([smtp(100, burst=200)]))
    granted = 0
    for _ in range(200):
        granted += (await limits.take(EMAIL, "smtp", HIGH, 1000)).granted
        clock.now += 0.1
    assert granted == pytest.approx(20 * 100 / 4, abs=26)  # 20 s of a quarter of the rate, and its first second
    assert (await limits.take(Channel.SMS, "other", LOW, 7)).granted == 7  # without a limit there is none


async def test_away_nothing_is_granted_for_free_by_refunds() -> None:
    limits = nowhere()
    limits.define(Definitions.of([smtp(100, burst=200)]))
    first = (await limits.take(EMAIL, "smtp", HIGH, 1000)).granted
    await limits.give_back(EMAIL, "smtp", 5)
    assert (await limits.take(EMAIL, "smtp", HIGH, 1000)).granted == 5
    await limits.give_back(EMAIL, "smtp", 10_000)
    assert (await limits.take(EMAIL, "smtp", HIGH, 1000)).granted <= 50
    assert first == 25


async def test_away_people_have_half_the_pace_and_each_request_one_slot() -> None:
    limits = nowhere()
    limits.define(news(permits=2, burst=3))
    asked = [a_request() for _ in range(50)]
    waits = await limits.reserve(asked)
    assert waits[0] == 0
    assert waits[49] - waits[9] == pytest.approx(40 * 2, abs=0.01)  # a quarter of two a second
    assert await limits.reserve(asked) == waits


async def test_away_a_hold_is_kept() -> None:
    limits = nowhere()
    limits.define(Definitions())
    await limits.hold("smtp", 5.0)
    assert (await limits.take(EMAIL, "smtp", HIGH, 1)).wait_seconds == 5.0


class Broken:
    """LimitScripts of a server that hangs or is away, as told; by the constructor, in the real ones' place."""

    def __init__(self, behind: LimitScripts) -> None:
        self.behind = behind
        self.is_away = False
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        async def ask(*args: Any) -> Any:
            self.asked += 1
            if self.is_away:
                raise TimeoutError
            return await getattr(self.behind, name)(*args)

        return ask


async def test_a_server_that_hangs_is_not_asked_for_each_batch(scripts: LimitScripts) -> None:
    broken, clock = Broken(scripts), Clock()
    limits = RateLimits(broken, clock=clock)  # type: ignore[arg-type]
    limits.define(Definitions.of([smtp(1000, burst=1000)]))
    broken.is_away = True
    for _ in range(50):
        await limits.take(EMAIL, "smtp", HIGH, 1)
    assert broken.asked == 1
    clock.now += AWAY_SECONDS + 0.1
    await limits.take(EMAIL, "smtp", HIGH, 1)
    assert broken.asked == 2
    broken.is_away = False
    assert await limits.sign_of_life("w-1") is not None  # the probe that brings it back
    await limits.take(EMAIL, "smtp", HIGH, 1)
    assert broken.asked == 4


async def test_slots_that_were_given_alone_count_when_the_server_is_back(scripts: LimitScripts, old: None) -> None:
    broken = Broken(scripts)
    limits = RateLimits(broken)  # type: ignore[arg-type]
    limits.define(news(permits=2, burst=1))
    before = await limits.reserve([a_request() for _ in range(11)])
    broken.is_away = True
    alone = await limits.reserve([a_request() for _ in range(11)])
    assert alone[0] > before[-1]  # those that the server gave out are known
    broken.is_away = False
    await limits.sign_of_life("w-1")
    [after] = await limits.reserve([a_request()])
    assert after > alone[-1]


async def test_tokens_taken_alone_are_not_given_back_to_the_server(scripts: LimitScripts, redis: Redis) -> None:
    broken = Broken(scripts)
    limits = RateLimits(broken)  # type: ignore[arg-type]
    limits.define(Definitions.of([smtp(1, per_seconds=1000, burst=100)]))
    await fill(redis, 10)
    assert (await limits.take(EMAIL, "smtp", HIGH, 4)).granted == 4
    broken.is_away = True
    await limits.take(EMAIL, "smtp", HIGH, 1)
    broken.is_away = False
    await limits.sign_of_life("w-1")
    await limits.give_back(EMAIL, "smtp", 4)
    [state] = await scripts.states([smtp(1, per_seconds=1000, burst=100)])
    assert state.tokens == pytest.approx(6, abs=0.1)


# -- workers


async def test_workers_count_themselves_and_one_takes_samples(scripts: LimitScripts, redis: Redis) -> None:
    answers = [await scripts.sign_of_life(f"w-{number}") for number in range(3)]
    assert [answer.alive for answer in answers] == [1, 2, 3]
    assert [answer.is_our_turn for answer in answers] == [True, False, False]
    seconds, _ = await redis.time()
    await redis.zadd("limit:workers", {"w-0": seconds - 60})
    assert (await scripts.sign_of_life("w-1")).alive == 2


async def test_the_share_follows_the_workers(scripts: LimitScripts) -> None:
    broken = Broken(scripts)
    limits = RateLimits(broken, workers=1)  # type: ignore[arg-type]
    for number in range(5):
        await limits.sign_of_life(f"w-{number}")
    broken.is_away = True
    limits.define(Definitions.of([smtp(1000, burst=1000)]))
    assert (await limits.take(EMAIL, "smtp", HIGH, 5000)).granted == 100


async def test_a_changed_limit_holds_for_the_same_bucket(limits: RateLimits, redis: Redis) -> None:
    limit = smtp(1, per_seconds=1000, burst=100)
    limits.define(Definitions.of([limit]))
    await fill(redis, 100)
    limits.define(Definitions.of([replace(limit, burst=10)]))
    assert (await limits.take(EMAIL, "smtp", HIGH, 50)).granted == 10
