"""Kept people with a real Redis and database: every door that changes a person tells, and nothing depends on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection

from cli.embedded.home import Home
from models.audience import Person
from models.enums import Channel
from models.repositories import audience, contacts
from streams.people import People
from streams.people_versions import PeopleVersions, people_redis
from streams.records import Outgoing
from streams.topics import CONTACTS
from tests.fixtures.service import Ledger, Service, a_request, a_service
from tests.fixtures.stack import Databases, Stack

if TYPE_CHECKING:
    from tests.fixtures.api import RunningApi


class Counted:
    """Reads people from the database, and notes for whom."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []

    async def __call__(self, connection: AsyncConnection, user_ids: Collection[str]) -> dict[str, Person]:
        self.asked.append(set(user_ids))
        return await audience.people(connection, user_ids)


class Process:
    """The cache of one worker process."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._redis = people_redis(service.settings)
        self.versions = PeopleVersions(
            self._redis, key_prefix=service.settings.redis_key_prefix, read_seconds=5, write_seconds=5
        )
        self.load = Counted()
        self.people = People(self.versions, load=self.load, at_first_sight=True)

    async def read(self, user_id: str) -> Person | None:
        async with self._service.engine.begin() as connection:
            return (await self.people.read(connection, [user_id])).get(user_id)

    async def close(self) -> None:
        await self.versions.close()
        await self._redis.aclose()


@contextlib.asynccontextmanager
async def a_process(service: Service) -> AsyncIterator[Process]:
    made = Process(service)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def process(api: RunningApi) -> AsyncIterator[Process]:
    async with a_process(api.service) as made:
        yield made


def somebody() -> str:
    return f"u-{uuid.uuid4().hex[:8]}"


async def put(api: RunningApi, user: str, what: str, body: dict[str, Any]) -> None:
    answer = await api.sender.put(f"/api/v1/users/{user}/{what}", json=body)
    assert answer.status_code == 200, answer.text


async def test_a_person_is_kept_and_every_change_by_http_is_seen(api: RunningApi, process: Process) -> None:
    user = somebody()
    assert await process.read(user) is None
    assert await process.read(user) is None
    assert len(process.load.asked) == 1, "that nothing is known is kept too"

    await put(api, user, "contact", {"email": "ada@example.com"})
    person = await process.read(user)
    assert person is not None
    assert person.email == "ada@example.com"

    await put(api, user, "preferences", {"channels": {"sms": False}})
    person = await process.read(user)
    assert person is not None
    assert person.channels == {"sms": False}

    await put(api, user, "devices", {"platform": "fcm", "token": f"t-{user}"})
    person = await process.read(user)
    assert person is not None
    assert [device.token for device in person.devices] == [f"t-{user}"]

    gone = {"platform": "fcm", "token": f"t-{user}"}
    answer = await api.sender.request("DELETE", f"/api/v1/users/{user}/devices", json=gone)
    assert answer.status_code == 204
    person = await process.read(user)
    assert person is not None
    assert person.devices == ()

    assert (await api.sender.delete(f"/api/v1/users/{user}/contact")).status_code == 204
    person = await process.read(user)
    assert person is not None
    assert person.email is None

    asked = len(process.load.asked)
    await process.read(user)
    assert len(process.load.asked) == asked, "and then they are kept again"


async def test_a_device_that_goes_to_another_person_leaves_the_first(api: RunningApi, process: Process) -> None:
    first, second = somebody(), somebody()
    device = {"platform": "fcm", "token": f"t-{first}"}
    await put(api, first, "devices", device)
    before = await process.read(first)
    assert before is not None
    assert len(before.devices) == 1
    await put(api, second, "devices", device)
    assert await process.read(first) is None
    after = await process.read(second)
    assert after is not None
    assert len(after.devices) == 1


async def test_a_change_by_the_topic_is_seen(api: RunningApi, process: Process) -> None:
    user, other = somebody(), somebody()
    await put(api, other, "devices", {"platform": "fcm", "token": f"t-{other}"})
    assert await process.read(user) is None
    assert await process.read(other) is not None
    record = {"user_id": user, "email": "by@example.com", "devices": [{"platform": "fcm", "token": f"t-{other}"}]}
    async with a_process(api.service) as lane, api.service.worker(only={"contacts"}, people=lane.versions):
        await api.service.publisher.send_all([Outgoing(CONTACTS, user.encode(), orjson.dumps(record))])
        async with asyncio.timeout(20):
            while (person := await process.read(user)) is None or person.email is None:
                await asyncio.sleep(0.02)
    assert person.email == "by@example.com"
    assert [device.token for device in person.devices] == [f"t-{other}"]
    assert await process.read(other) is None, "the token went to the other one"


async def test_the_versions_are_few_and_go_again(api: RunningApi, process: Process, valkey: str) -> None:
    """Only who changed has one; millions who are only read leave nothing in Redis."""
    before = await keys(api, valkey)
    for _ in range(50):
        await process.read(somebody())
    assert await keys(api, valkey) - before <= {"epoch"}
    user = somebody()
    await put(api, user, "contact", {"email": "ada@example.com"})
    assert f"of:{user}" in await keys(api, valkey)
    async with Redis.from_url(valkey) as redis:
        assert 0 < await redis.ttl(f"{api.service.settings.redis_key_prefix}people:of:{user}") <= 600


async def keys(api: RunningApi, valkey: str) -> set[str]:
    prefix = f"{api.service.settings.redis_key_prefix}people:"
    async with Redis.from_url(valkey) as redis:
        return {key.decode().removeprefix(prefix) async for key in redis.scan_iter(f"{prefix}*")}


async def test_preferences_count_for_what_is_already_queued(api: RunningApi) -> None:
    """Rendered and on the channel topic while they were wanted; the claim reads what holds now."""
    user, ledger = somebody(), Ledger()
    request = a_request(user_id=user, category="news")
    async with a_process(api.service) as lane:
        async with api.service.worker(only={"requests-normal"}, people=lane.versions):
            await api.service.publish(request)
            await api.service.until(UUID(request["id"]), "queued")
        await put(api, user, "preferences", {"categories": {"news": {"email": False}}})
        providers = {Channel.EMAIL: [ledger]}
        async with api.service.worker(only={"send-email-normal"}, people=lane.versions, providers=providers):
            assert await api.service.until(UUID(request["id"]), "suppressed", "sent", "failed") == "suppressed"
    assert ledger.calls == []


async def test_lanes_see_a_change_that_was_answered(api: RunningApi) -> None:
    """Twenty times over: after the 200 of a PUT, a request goes to the new address."""
    user, ledger = somebody(), Ledger()
    async with a_process(api.service) as lane:
        lanes = {"requests-normal", "send-email-normal"}
        providers = {Channel.EMAIL: [ledger]}
        async with api.service.worker(only=lanes, people=lane.versions, providers=providers):
            for number in range(20):
                await put(api, user, "contact", {"email": f"ada-{number}@example.com"})
                request = a_request(user_id=user)
                del request["recipient"]
                await api.service.publish(request)
                assert await api.service.until(UUID(request["id"]), "sent", "failed") == "sent"
                assert ledger.calls[-1].to == f"ada-{number}@example.com"


# -- a Redis that may be killed


@pytest.fixture(scope="module")
def mortal() -> Iterator[Stack]:
    """A Valkey of its own."""
    folder = Path(tempfile.mkdtemp(prefix="comms-people-"))
    stack = Stack(Home.open(folder))
    try:
        stack.start("valkey")
        yield stack
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)


def pid(stack: Stack) -> int:
    """Of the server; 0 while there is none."""
    file = stack.home.pid_file("valkey")
    return int(file.read_text()) if file.exists() else 0


@pytest.fixture
async def fragile(kafka: str, postgres: Databases, migrated: str, mortal: Stack) -> AsyncIterator[Service]:
    url = mortal.settings("valkey")["REDIS_URL"]
    async with a_service(kafka, postgres, migrated, url) as service:
        yield service


async def test_a_killed_redis_costs_nothing_but_the_cache(fragile: Service, mortal: Stack) -> None:
    user = somebody()
    async with a_process(fragile) as process, a_process(fragile) as writer:
        await change(fragile, writer, user, "before@example.com")
        await process.read(user)
        await process.read(user)
        assert len(process.load.asked) == 1
        old = pid(mortal)
        os.kill(old, signal.SIGKILL)
        await change(fragile, writer, user, "meanwhile@example.com")
        async with asyncio.timeout(30):
            while pid(mortal) == old or await process.versions.fetch([user]) is None:
                person = await process.read(user)
                assert person is not None
                assert person.email == "meanwhile@example.com", "what is kept is not used without Redis"
                await asyncio.sleep(0.05)
        person = await process.read(user)
        assert person is not None
        assert person.email == "meanwhile@example.com", "nor with one that started anew"


async def test_a_redis_that_started_anew_proves_nothing_right(fragile: Service, mortal: Stack) -> None:
    """It may have lost its last second, and with it a change."""
    user = somebody()
    async with a_process(fragile) as process:
        await people_until_kept(process.versions, user)
        for _ in range(2):
            await process.read(user)
        assert len(process.load.asked) == 1
        old = pid(mortal)
        os.kill(old, signal.SIGKILL)
        async with asyncio.timeout(30):
            while pid(mortal) in (0, old):
                await asyncio.sleep(0.05)
        await people_until_kept(process.versions, user)
        await process.read(user)
        assert len(process.load.asked) == 2


async def test_a_redis_that_hangs_stalls_nobody(fragile: Service, mortal: Stack) -> None:
    user = somebody()
    redis = people_redis(fragile.settings)
    versions = PeopleVersions(redis, key_prefix=fragile.settings.redis_key_prefix)
    people = People(versions, at_first_sight=True)
    await people_until_kept(versions, user)
    os.kill(pid(mortal), signal.SIGSTOP)
    try:
        async with asyncio.timeout(5), fragile.engine.begin() as connection:
            for _ in range(100):
                await people.read(connection, [user])
    finally:
        os.kill(pid(mortal), signal.SIGCONT)
        await versions.close()
        await redis.aclose()


async def people_until_kept(versions: PeopleVersions, user: str) -> None:
    async with asyncio.timeout(20):
        while await versions.fetch([user]) is None:
            await asyncio.sleep(0.1)


async def change(service: Service, writer: Process, user: str, email: str) -> None:
    async with writer.versions.changing(user), service.engine.begin() as connection:
        await contacts.put(connection, user_id=user, email=email, phone=None, name=None, locale=None, timezone=None)
