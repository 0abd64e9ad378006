"""How providers are, from the worker that sees it, through Redis, to `/providers`, `/ready` and the command line."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from api.app import create_app
from bench.adapters import VENDORS
from models.enums import Channel, Outcome
from models.settings import Settings
from streams.provider_states import ProviderStates, StateTeller, word
from streams.providers.base import DeliveryResult
from streams.realtime import connect_redis
from tests.contracts.deliveries import API_KEY
from tests.contracts.sendgrid_server import SendGridServer
from tests.fixtures.api import callers, served
from tests.fixtures.service import Ledger, a_request

if TYPE_CHECKING:
    from tests.fixtures.api import RunningApi

ROOT = Path(__file__).parents[2]
PATH = "/api/v1/providers"
WELL = {"state": "closed", "reason": None, "detail": None, "since": "2026-11-23T10:00:00+00:00", "until": None}
BROKEN = WELL | {"state": "held", "reason": "broken", "detail": "401", "until": "2026-11-23T10:01:00+00:00"}


class Smtp(Ledger):
    """The chain's only provider, by its name in the settings."""

    name = "smtp"


async def shown(api: RunningApi, channel: str = "email") -> dict[str, dict[str, Any]]:
    answer = await api.admin.get(PATH)
    assert answer.status_code == 200
    return {item["provider"]: item for item in answer.json()["items"] if item["channel"] == channel}


async def until_shown(api: RunningApi, state: str, provider: str = "smtp") -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            found = (await shown(api)).get(provider, {})
            if found.get("state") == state:
                return found
            await asyncio.sleep(0.05)


@pytest.fixture
async def redis(api: RunningApi) -> AsyncIterator[Redis]:
    client = connect_redis(api.service.settings)
    yield client
    await client.aclose()


async def test_from_a_worker_s_trouble_to_its_end(api: RunningApi) -> None:
    assert (await shown(api))["smtp"] == {
        "channel": "email",
        "provider": "smtp",
        "place": 1,
        "state": "unknown",
        "workers": 0,
        "workers_in_state": 0,
    }
    refuses = DeliveryResult(outcome=Outcome.BROKEN, provider="smtp", reason="535 5.7.8")
    provider = Smtp()
    async with api.service.worker(providers={Channel.EMAIL: [provider]}, only={"requests-normal", "send-email-normal"}):
        well = await until_shown(api, "closed")
        assert (well["workers"], well["workers_in_state"], "detail" in well) == (1, 1, False)
        provider.answer = lambda _: refuses
        await api.service.publish(a_request())
        broken = await until_shown(api, "broken")
        assert (broken["detail"], broken["workers"]) == ("535 5.7.8", 1)
        assert broken["since"] < broken["until"]
        ready = await api.client("nobody").get("/ready")
        assert ready.status_code == 200
        assert ready.json()["status"] == "ready"
        async with asyncio.timeout(5):  # it is asked once a second
            while (await api.client("nobody").get("/ready")).json()["providers"]["email"] != {"smtp": "broken"}:
                await asyncio.sleep(0.2)
        provider.answer = Ledger().answer
        await until_shown(api, "closed")
    assert (await shown(api))["smtp"]["state"] == "unknown"


async def test_the_worst_of_several_workers(api: RunningApi, redis: Redis) -> None:
    states = ProviderStates(redis, key_prefix=api.service.settings.redis_key_prefix)
    await states.tell("one", {"email": {"smtp": WELL}})
    await states.tell("two", {"email": {"smtp": BROKEN, "ses": WELL}})
    try:
        found = await shown(api)
        assert (found["smtp"]["state"], found["smtp"]["workers"], found["smtp"]["workers_in_state"]) == ("broken", 2, 1)
        assert found["smtp"]["until"] == "2026-11-23T10:01:00.000Z"
        assert "place" not in found["ses"]
    finally:
        await states.forget("one")
        await states.forget("two")


async def test_a_worker_that_died_is_forgotten(api: RunningApi, redis: Redis) -> None:
    prefix = api.service.settings.redis_key_prefix
    states = ProviderStates(redis, key_prefix=prefix)
    await states.tell("dead", {"email": {"smtp": BROKEN}})
    key = f"{prefix}provider-states:dead"
    assert 0 < await redis.pttl(key) <= 10_000
    await redis.delete(key)  # as its time does
    assert (await shown(api))["smtp"]["state"] == "unknown"
    assert await redis.smembers(f"{prefix}provider-states") == set()


async def test_limits_are_shown_beside(api: RunningApi) -> None:
    await api.admin.put("/api/v1/rate-limits/provider/smtp", json={"permits": 10, "per_seconds": 1, "burst": 20})
    try:
        limit = (await shown(api))["smtp"]["limit"]
        assert {name: limit[name] for name in ("permits", "per_seconds", "burst")} == {
            "permits": 10,
            "per_seconds": 1,
            "burst": 20,
        }
    finally:
        await api.admin.delete("/api/v1/rate-limits/provider/smtp")


async def test_without_redis_nothing_is_known_and_everything_answers(api: RunningApi) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        away = f"redis://127.0.0.1:{free.getsockname()[1]}/0"
    settings = api.service.settings.model_copy(update={"redis_url": away, "identity_service_url": api.identity.url})
    async with served(create_app(settings), settings) as port:
        with callers(f"http://127.0.0.1:{port}", api.identity) as clients:
            answer = await clients["admin"].get(PATH)
            assert answer.status_code == 200
            assert {item["state"] for item in answer.json()["items"]} == {"unknown"}
            ready = await clients["nobody"].get("/ready")
            assert ready.status_code == 200
            assert ready.json()["providers"] == {"email": {"smtp": "unknown"}, "in_app": {"in_app": "unknown"}}
            for client in clients.values():
                await client.aclose()


async def test_a_teller_outlives_redis(api: RunningApi) -> None:
    class Watched:
        channel = Channel.EMAIL

        def states(self) -> dict[str, dict[str, Any]]:
            return {"smtp": BROKEN}

    gone = connect_redis(api.service.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    teller = StateTeller(ProviderStates(gone, key_prefix="x:"), [Watched()], every=timedelta(milliseconds=10))
    await teller.start()
    await asyncio.sleep(0.1)
    assert not teller.crashed
    await teller.stop()
    await gone.aclose()
    assert word([Watched()]) == {"email": {"smtp": BROKEN}}


# The commands


async def comms(settings: Settings, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {name: value for name, value in os.environ.items() if not name.startswith("COMMS_")}
    named = {
        "PYTHONPATH": str(ROOT),
        "COMMS_HOME": str(ROOT / "no-such-home"),
        "DATABASE_URL": settings.database_url.replace("+asyncpg", ""),
        "REDIS_URL": settings.redis_url,
        "REDIS_KEY_PREFIX": settings.redis_key_prefix,
    }
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "cli.main", "providers", *arguments],
        env=base | named | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_the_list_is_what_the_workers_told(api: RunningApi, redis: Redis) -> None:
    settings = api.service.settings
    states = ProviderStates(redis, key_prefix=settings.redis_key_prefix)
    nobody = await comms(settings, "list")
    assert nobody.returncode == 0 and "is one running?" in nobody.stdout
    await states.tell("one", {"email": {"smtp": BROKEN}, "in_app": {"in_app": WELL}})
    try:
        table, document = await asyncio.gather(comms(settings, "list"), comms(settings, "list", "--json"))
    finally:
        await states.forget("one")
    assert "smtp: the account is refused" in table.stdout
    (smtp, in_app) = json.loads(document.stdout)["items"]
    assert (smtp["state"], smtp["detail"], smtp["until"]) == ("broken", "401", "2026-11-23T10:01:00.000Z")
    assert in_app["state"] == "closed"


@pytest.fixture
async def sendgrid() -> AsyncIterator[SendGridServer]:
    server = SendGridServer()
    await server.start()
    yield server
    await server.stop()


async def test_a_check_sends_one_message(api: RunningApi, sendgrid: SendGridServer) -> None:
    done = await comms(
        api.service.settings,
        *("check", "sendgrid", "--to", "ada@example.com", "--json"),
        SENDGRID_API_KEY=API_KEY,
        SENDGRID_BASE_URL=sendgrid.url,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["ok"], told["outcome"], told["to"]) == (True, "sent", "a***@example.com")
    assert len(sendgrid.taken()) == 1
    assert API_KEY not in done.stdout + done.stderr


async def test_a_check_says_what_is_wrong(api: RunningApi, sendgrid: SendGridServer) -> None:
    sendgrid.misbehave("401")
    done = await comms(
        api.service.settings,
        *("check", "sendgrid", "--to", "ada@example.com"),
        SENDGRID_API_KEY=API_KEY,
        SENDGRID_BASE_URL=sendgrid.url,
    )
    assert done.returncode == 1
    assert "What is wrong: SendGrid doesn't know the API key" in done.stdout
    assert "set SENDGRID_API_KEY" in done.stdout
    assert API_KEY not in done.stdout + done.stderr


async def test_what_an_adapter_logs_is_not_in_the_way(api: RunningApi, tmp_path: Path) -> None:
    away = {name.upper(): str(value) for name, value in VENDORS["fcm"].settings(9, tmp_path).items()}
    done = await comms(api.service.settings, "check", "fcm", "--to", "f" * 40, "--json", **away)
    assert done.returncode == 1
    assert json.loads(done.stdout)["reason"] == "no access token"
    assert "PRIVATE KEY" not in done.stdout + done.stderr


async def test_a_check_of_nobody_names_who_there_is(api: RunningApi) -> None:
    unset, unknown = await asyncio.gather(
        comms(api.service.settings, "check", "sendgrid", "--json"), comms(api.service.settings, "check", "pigeon")
    )
    assert (unset.returncode, json.loads(unset.stdout)["wrong"]) == (1, "SENDGRID_API_KEY is not set")
    assert unknown.returncode == 1 and "no provider 'pigeon'" in unknown.stderr and "sendgrid" in unknown.stderr
