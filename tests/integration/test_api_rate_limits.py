"""Limits by HTTP: defined, seen, changed and removed at run time; what is wrong is named."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from redis.asyncio import Redis

from api.app import create_app
from models.enums import Channel, Priority
from models.limits import Scope
from models.session import create_engine
from models.settings import Settings
from streams.rate_limits import RateLimits, Reservation, open_rate_limits
from streams.rate_limits.scripts import LimitScripts
from streams.rate_limits.upkeep import Upkeep
from tests.fixtures.api import callers, served
from tests.fixtures.service import a_request

if TYPE_CHECKING:
    from tests.fixtures.api import RunningApi

PATH = "/api/v1/rate-limits"
EMAIL, HIGH = Channel.EMAIL, Priority.HIGH
#: What the database, Redis and a poll take.
IN_FORCE_SECONDS = 2.0


async def put(api: RunningApi, place: str, **body: Any) -> httpx.Response:
    return await api.admin.put(f"{PATH}/{place}", json={"permits": 10, "per_seconds": 1, **body})


async def test_a_limit_from_its_making_to_its_end(api: RunningApi) -> None:
    made = await put(api, "provider/smtp", permits=100, burst=250)
    assert made.status_code == 200
    view = made.json()
    assert {name: view[name] for name in ("scope", "target", "permits", "per_seconds", "burst")} == {
        "scope": "provider",
        "target": "smtp",
        "permits": 100,
        "per_seconds": 1,
        "burst": 250,
    }
    assert view["bucket"]["source"] == "redis"
    assert view["bucket"]["tokens"] == 100  # one second of its rate
    changed = (await put(api, "provider/smtp", permits=5, per_seconds=60)).json()
    assert (changed["permits"], changed["per_seconds"], changed["burst"]) == (5, 60, 5)
    assert changed["created_at"] == view["created_at"]
    assert changed["updated_at"] > view["updated_at"]
    read = (await api.admin.get(f"{PATH}/provider/smtp")).json()
    assert {**read, "bucket": None} == {**changed, "bucket": None}
    assert (await api.admin.delete(f"{PATH}/provider/smtp")).status_code == 204
    for answer in (await api.admin.delete(f"{PATH}/provider/smtp"), await api.admin.get(f"{PATH}/provider/smtp")):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_limit_of_people_has_no_bucket_of_its_own(api: RunningApi) -> None:
    for target in ("*", "news", "a.b:c_d-e"):
        made = await put(api, f"user/{target}", permits=5, per_seconds=3600)
        assert made.status_code == 200
        assert made.json()["target"] == target
        assert "bucket" not in made.json()
        assert (await api.admin.get(f"{PATH}/user/{target}")).json() == made.json()
        await api.admin.delete(f"{PATH}/user/{target}")


async def test_the_list_is_paged_in_order(api: RunningApi) -> None:
    places = ["channel/email", "channel/sms", "provider/in_app", "provider/sendgrid", "user/*", "user/news"]
    for place in reversed(places):
        assert (await put(api, place)).status_code == 200
    found: list[str] = []
    cursor = None
    while True:
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await api.admin.get(PATH, params=query)).json()
        found += [f"{one['scope']}/{one['target']}" for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == places
    for place in places:
        assert (await api.admin.delete(f"{PATH}/{place}")).status_code == 204


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"per_seconds": 1}, "permits"),
        ({"permits": 1}, "per_seconds"),
        ({"permits": 0, "per_seconds": 1}, "permits"),
        ({"permits": -1, "per_seconds": 1}, "permits"),
        ({"permits": 1_000_001, "per_seconds": 1}, "permits"),
        ({"permits": 10**30, "per_seconds": 1}, "permits"),
        ({"permits": 1.5, "per_seconds": 1}, "permits"),
        ({"permits": True, "per_seconds": 1}, "permits"),
        ({"permits": "10", "per_seconds": 1}, "permits"),
        ({"permits": None, "per_seconds": 1}, "permits"),
        ({"permits": [1], "per_seconds": 1}, "permits"),
        ({"permits": 1, "per_seconds": 0}, "per_seconds"),
        ({"permits": 1, "per_seconds": 2_678_401}, "per_seconds"),
        ({"permits": 1, "per_seconds": 0.5}, "per_seconds"),
        ({"permits": 1, "per_seconds": 1, "burst": 0}, "burst"),
        ({"permits": 1, "per_seconds": 1, "burst": None}, "burst"),
        ({"permits": 1, "per_seconds": 1, "burst": 1_000_001}, "burst"),
        ({"permits": 1, "per_seconds": 1, "scope": "channel"}, "scope"),
        ({"permits": 1, "per_seconds": 1, "scope": "all"}, "scope"),
        ({"permits": 1, "per_seconds": 1, "target": "smtp"}, "target"),
    ],
)
async def test_what_is_wrong_in_a_body_is_named(api: RunningApi, body: dict[str, Any], field: str) -> None:
    answer = await api.admin.put(f"{PATH}/provider/sendgrid", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert (await api.admin.get(f"{PATH}/provider/sendgrid")).status_code == 404


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "01", "0x10"])
async def test_numbers_that_json_has_not(api: RunningApi, number: str) -> None:
    body = f'{{"permits": {number}, "per_seconds": 1}}'
    headers = {"content-type": "application/json"}
    answer = await api.admin.put(f"{PATH}/provider/sendgrid", content=body, headers=headers)
    assert answer.status_code in (400, 422)
    assert (await api.admin.get(f"{PATH}/provider/sendgrid")).status_code == 404


@pytest.mark.parametrize(
    ("place", "field"),
    [
        ("everything/smtp", "scope"),
        ("USER/news", "scope"),
        ("channel/fax", "target"),
        ("channel/*", "target"),
        ("provider/*", "target"),
        ("provider/email", "target"),
        ("provider/no-such", "target"),
        ("user/-news", "target"),
        ("user/a%20b", "target"),
        ("user/%00", "target"),
        ("user/**", "target"),
        ("user/" + "x" * 129, "target"),
    ],
)
async def test_what_is_wrong_in_a_path_is_named(api: RunningApi, place: str, field: str) -> None:
    answer = await put(api, place)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    for method in ("GET", "DELETE"):
        assert (await api.admin.request(method, f"{PATH}/{place}")).status_code == 404


@pytest.mark.parametrize("place", ["", "user", "user/a/b", "user/" + "x" * 300, "provider/smtp/"])
async def test_paths_that_are_none(api: RunningApi, place: str) -> None:
    answer = await put(api, place)
    assert answer.status_code in (404, 405)


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "cursor=x", "cursor=" + "A" * 48])
async def test_a_query_that_makes_no_sense_is_named(api: RunningApi, query: str) -> None:
    answer = await api.admin.get(f"{PATH}?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == query.partition("=")[0]


async def test_the_same_limit_set_by_many_at_once_is_one_of_theirs(api: RunningApi) -> None:
    answers = await asyncio.gather(*(put(api, "channel/push", permits=number) for number in range(1, 21)))
    assert {answer.status_code for answer in answers} == {200}
    stored = (await api.admin.get(f"{PATH}/channel/push")).json()
    assert stored["permits"] == stored["burst"]
    await api.admin.delete(f"{PATH}/channel/push")


async def test_without_redis_the_last_sample_is_shown(api: RunningApi) -> None:
    settings: Settings = api.service.settings.model_copy(
        update={"identity_service_url": api.identity.url, "redis_url": "redis://127.0.0.1:1/0"}
    )
    assert (await put(api, "provider/smtp")).status_code == 200
    app = create_app(settings)
    async with served(app, settings) as port:
        with callers(f"http://127.0.0.1:{port}", api.identity) as clients:
            admin = clients["admin"]
            assert "bucket" not in (await admin.get(f"{PATH}/provider/smtp")).json()
            await api.service.execute("UPDATE rate_limit_buckets SET tokens = 7.5, sampled_at = now()")
            shown = (await admin.get(f"{PATH}/provider/smtp")).json()["bucket"]
            assert (shown["tokens"], shown["source"]) == (7.5, "sample")
            assert (await admin.put(f"{PATH}/provider/smtp", json={"permits": 3, "per_seconds": 1})).status_code == 200
            for client in clients.values():
                await client.aclose()
    await api.admin.delete(f"{PATH}/provider/smtp")


# -- in force


async def within(seconds: float, limits: RateLimits, scope: Scope, target: str, permits: int | None) -> float:
    """Waits until a worker goes by that definition; the seconds it took. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.timeout(seconds):
        while True:
            known = limits.definitions
            found = {Scope.USER: known.users, Scope.CHANNEL: known.channels, Scope.PROVIDER: known.providers}[scope]
            if (found[target].permits if target in found else None) == permits:
                return loop.time() - started
            await asyncio.sleep(0.01)


async def test_a_change_is_in_force_in_workers_without_a_restart(api: RunningApi) -> None:
    service = api.service
    async with (
        open_rate_limits(service.settings, service.engine) as one,
        open_rate_limits(service.settings, service.engine) as other,
    ):
        await put(api, "provider/smtp", permits=7, burst=100)
        await put(api, "user/*", permits=1, per_seconds=3600, burst=1)
        for limits in (one, other):
            await within(IN_FORCE_SECONDS, limits, Scope.PROVIDER, "smtp", 7)
            await within(IN_FORCE_SECONDS, limits, Scope.USER, "*", 1)
        assert (await one.take(EMAIL, "smtp", HIGH, 50)).granted == 7
        assert (await other.take(EMAIL, "smtp", HIGH, 50)).granted <= 1
        waits = await one.reserve([Reservation(uuid.uuid4(), "u-1", "news") for _ in range(2)])
        assert waits[0] == 0
        assert waits[1] > 3500
        await put(api, "provider/smtp", permits=9)
        await within(IN_FORCE_SECONDS, other, Scope.PROVIDER, "smtp", 9)
        await api.admin.delete(f"{PATH}/provider/smtp")
        await api.admin.delete(f"{PATH}/user/*")
        await within(IN_FORCE_SECONDS, one, Scope.PROVIDER, "smtp", None)
        await within(IN_FORCE_SECONDS, one, Scope.USER, "*", None)
        assert (await one.take(EMAIL, "smtp", HIGH, 5000)).granted == 5000


async def test_samples_are_kept_and_shown(api: RunningApi) -> None:
    service = api.service
    await put(api, "channel/email", permits=40, burst=100)
    await put(api, "user/news", permits=40)
    async with Redis.from_url(service.settings.redis_url) as redis:
        await redis.delete(f"{service.settings.redis_key_prefix}limit:turn")
    async with open_rate_limits(service.settings, service.engine) as limits:
        await within(IN_FORCE_SECONDS, limits, Scope.CHANNEL, "email", 40)
        await limits.take(EMAIL, "smtp", HIGH, 30)
        async with asyncio.timeout(15):
            while not (rows := await service.fetch("SELECT * FROM rate_limit_buckets WHERE tokens IS NOT NULL")):
                await asyncio.sleep(0.1)
    [row] = rows
    assert (row.scope, row.target) == ("channel", "email")
    assert 0 < row.tokens <= 100
    for place in ("channel/email", "user/news"):
        await api.admin.delete(f"{PATH}/{place}")


async def test_with_postgres_away_what_was_known_last_holds(api: RunningApi) -> None:
    service = api.service
    await put(api, "provider/smtp", permits=3, burst=3)
    async with Redis.from_url(service.settings.redis_url) as redis:
        scripts = LimitScripts(redis, key_prefix=service.settings.redis_key_prefix)
        limits = RateLimits(scripts)
        upkeep = Upkeep(limits, scripts, engine=service.engine, worker="w-1")
        await upkeep.read()
        assert limits.definitions.providers["smtp"].permits == 3
        gone = create_engine(
            service.settings.model_copy(update={"database_url": "postgresql+asyncpg://x:x@127.0.0.1:1/none"}), name="x"
        )
        await Upkeep(limits, scripts, engine=gone, worker="w-1").read()
        await gone.dispose()
        assert limits.definitions.providers["smtp"].permits == 3
    await api.admin.delete(f"{PATH}/provider/smtp")


async def test_no_limit_is_there_unless_somebody_sets_one(api: RunningApi) -> None:
    assert (await api.admin.get(PATH)).json() == {"items": [], "next_cursor": None}
    request = a_request()
    assert (await api.sender.post("/api/v1/notifications", json=request)).status_code == 202
