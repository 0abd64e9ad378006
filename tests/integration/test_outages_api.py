"""The API while its servers are away or hang: 202 or 503 within seconds, what was accepted is found and sent."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import aiohttp
import httpx
import orjson
import pytest

from models.enums import Channel
from tests.fixtures.api import RunningApi, an_api
from tests.fixtures.outages import Outages, own_servers
from tests.fixtures.service import Ledger, Service, a_request, a_service

PATH = "/api/v1/notifications"
#: What the contract promises a caller, whatever hangs.
PROMISED_SECONDS = 10.0

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def outages() -> Iterator[Outages]:
    with own_servers(["kafka", "postgres", "valkey", "identity"]) as running:
        yield running


@pytest.fixture(scope="module")
async def service(outages: Outages) -> AsyncIterator[Service]:
    databases = outages.databases
    migrated = databases("migrated")
    subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"], check=True, env={**os.environ, "DATABASE_URL": migrated}
    )
    async with a_service(outages.url("kafka"), databases, migrated, outages.url("valkey")) as running:
        yield running


@pytest.fixture(scope="module")
async def api(service: Service, outages: Outages) -> AsyncIterator[RunningApi]:
    async with an_api(service, outages.identity) as running:
        await asked(running.sender.post(PATH, json=a_request()), 202)
        yield running


async def asked(call: Any, *statuses: int, within_seconds: float = PROMISED_SECONDS) -> httpx.Response:
    """The answer, which has one of the statuses and comes in time."""
    began = time.monotonic()
    answer: httpx.Response = await call
    seconds = time.monotonic() - began
    assert answer.status_code in statuses, (answer.status_code, answer.text)
    assert seconds < within_seconds, f"answered after {seconds:.1f} s"
    return answer


async def again(api: RunningApi, *, within_seconds: float = 30.0) -> None:
    """Waits until all servers are there, and a request is accepted as if nothing had been."""
    async with asyncio.timeout(within_seconds):
        while (await api.sender.get("/ready")).status_code != 200:
            await asyncio.sleep(0.2)
        while True:
            request = a_request()
            answer = await asked(api.sender.post(PATH, json=request), 202, 503)
            if answer.status_code == 202 and await api.service.status(UUID(request["id"])):
                return
            await asyncio.sleep(0.2)


async def check_accepted_without_row(api: RunningApi, request: dict[str, Any]) -> None:
    """It is found as accepted, by those who may see it; its id takes no other body."""
    url = f"{PATH}/{request['id']}"
    shown = (await asked(api.sender.get(url), 200)).json()
    assert (shown["status"], shown["user_id"], shown["metadata"]) == ("accepted", "u-1", {"order": "4711"})
    assert [entry["event"] for entry in shown["timeline"]] == ["accepted"]
    assert shown["deliveries"] == []
    await asked(api.user.get(url), 200)
    await asked(api.client("other").get(url), 404, 503)
    await asked(api.sender.post(PATH, json=request), 202)
    conflict = await asked(api.sender.post(PATH, json={**request, "data": {"name": "Eve"}}), 422)
    assert conflict.json()["code"] == "conflict"


async def sent_once(api: RunningApi, *requests: dict[str, Any]) -> None:
    ledger = Ledger()
    only = {"requests-normal", "send-email-normal", "outbox"}
    async with api.service.worker(providers={Channel.EMAIL: (ledger,)}, only=only):
        for request in requests:
            await api.service.until(UUID(request["id"]), "sent", within_seconds=40)
    for request in requests:
        assert len(ledger.of(UUID(request["id"]))) == 1
        shown = await asked(api.sender.get(f"{PATH}/{request['id']}"), 200)
        assert shown.json()["status"] == "sent"


def a_marked_request() -> dict[str, Any]:
    return a_request("u-1", metadata={"order": "4711"})


@pytest.mark.parametrize("how", ["away", "hung"])
async def test_without_postgres_a_marker_stands_for_the_row(api: RunningApi, outages: Outages, how: str) -> None:
    first, second = a_marked_request(), a_marked_request()
    async with getattr(outages, how)("postgres"):
        for request in (first, second):
            answer = await asked(api.sender.post(PATH, json=request), 202)
            assert answer.json() == {
                "notification_id": request["id"],
                "status": "accepted",
                "status_url": f"{PATH}/{request['id']}",
            }
        await check_accepted_without_row(api, first)
        await asked(api.sender.post(f"{PATH}/{first['id']}/cancel"), 503)
        await asked(api.sender.get(PATH), 503)
        await asked(api.sender.get(f"{PATH}/{a_request()['id']}"), 503)  # there may be a row
        ready = await api.sender.get("/ready")
        assert (ready.json()["postgres"]["ok"], ready.json()["redis"]["ok"]) == (False, True)
    await again(api)
    # Its lane has not been there yet.
    await check_accepted_without_row(api, second)
    await sent_once(api, first, second)


def a_crowd(api: RunningApi, outages: Outages) -> aiohttp.ClientSession:
    """A client that many can use at a time: httpx takes longer to ask for 300 than the API to answer them."""
    return aiohttp.ClientSession(
        api.url, headers=outages.identity.headers(), connector=aiohttp.TCPConnector(limit=0), json_serialize=as_json
    )


def as_json(value: Any) -> str:
    return orjson.dumps(value).decode()


async def status_of(call: Any) -> int:
    """The status of an answer, which comes in time."""
    began = time.monotonic()
    async with call as answer:
        await answer.read()
    seconds = time.monotonic() - began
    assert seconds < PROMISED_SECONDS, f"answered after {seconds:.1f} s"
    status: int = answer.status
    return status


@pytest.mark.parametrize("how", ["away", "hung"])
async def test_a_crowd_is_answered_in_time_while_postgres_is_gone(api: RunningApi, outages: Outages, how: str) -> None:
    async with a_crowd(api, outages) as crowd, getattr(outages, how)("postgres"):
        requests = [a_request() for _ in range(300)]
        statuses = await asyncio.gather(*(status_of(crowd.post(PATH, json=each)) for each in requests))
        accepted = [request for request, status in zip(requests, statuses, strict=True) if status == 202]
        assert (set(statuses) <= {202, 503}, len(accepted) > 250) == (True, True), statuses
        reads = await asyncio.gather(*(status_of(crowd.get(f"{PATH}/{each['id']}")) for each in accepted))
        assert (set(reads) <= {200, 503}, reads.count(200) > 250) == (True, True), reads
        # Whoever comes later waits for nothing that others have waited for.
        began = time.monotonic()
        for _ in range(20):
            await asked(api.sender.post(PATH, json=a_request()), 202)
        assert time.monotonic() - began < 15
    await again(api)
    for each in accepted:
        await asked(api.sender.get(f"{PATH}/{each['id']}"), 200)


@pytest.mark.parametrize("how", ["away", "hung"])
@pytest.mark.parametrize("other", ["kafka", "valkey"])
async def test_what_has_only_one_place_is_not_accepted(api: RunningApi, outages: Outages, how: str, other: str) -> None:
    request = a_request()
    async with getattr(outages, how)("postgres", other):
        for _ in range(3):
            answer = await asked(api.sender.post(PATH, json=request), 503)
            assert answer.json()["notification_id"] == request["id"]
            assert int(answer.headers["retry-after"]) >= 1
    await again(api)
    await asked(api.sender.post(PATH, json=request), 202)
    await sent_once(api, request)


@pytest.mark.parametrize("how", ["away", "hung"])
async def test_without_kafka_the_outbox_takes_over(api: RunningApi, outages: Outages, how: str) -> None:
    requests = [a_request() for _ in range(40)]
    async with getattr(outages, how)("kafka"):
        await asyncio.gather(*(asked(api.sender.post(PATH, json=each), 202) for each in requests))
        reads = [asked(api.sender.get(f"{PATH}/{each['id']}"), 200) for each in requests]
        assert {answer.json()["status"] for answer in await asyncio.gather(*reads)} == {"accepted"}
    await again(api)
    await sent_once(api, *requests)


@pytest.mark.parametrize("how", ["away", "hung"])
async def test_without_redis_nothing_changes(api: RunningApi, outages: Outages, how: str) -> None:
    async with getattr(outages, how)("valkey"):
        for _ in range(10):
            request = a_request()
            await asked(api.sender.post(PATH, json=request), 202, within_seconds=2)
            await asked(api.sender.get(f"{PATH}/{request['id']}"), 200, within_seconds=2)
        # It may have a marker that can't be seen now.
        await asked(api.sender.get(f"{PATH}/{a_request()['id']}"), 503)
    async with asyncio.timeout(10):
        while (await asked(api.sender.get(f"{PATH}/{a_request()['id']}"), 404, 503)).status_code == 503:
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("how", ["away", "hung"])
async def test_without_identity_only_known_tokens_get_in(api: RunningApi, outages: Outages, how: str) -> None:
    await asked(api.sender.post(PATH, json=a_request()), 202)
    async with getattr(outages, how)("identity"):
        await asked(api.sender.post(PATH, json=a_request()), 202)
        stranger = outages.identity.headers("service", user_id=f"new-{how}")
        answers = [asked(api.client("nobody").post(PATH, json=a_request(), headers=stranger), 503) for _ in range(50)]
        await asyncio.gather(*answers)
    await asked(api.client("nobody").post(PATH, json=a_request(), headers=stranger), 202)
