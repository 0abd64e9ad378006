"""A request for a push message, from its topic to both vendors and back to the table of devices."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from models.enums import Channel, Outcome
from models.repositories import contacts
from models.settings import Settings
from streams.people_versions import open_people
from streams.providers.apns import ApnsProvider
from streams.providers.fcm import FcmProvider
from tests.contracts.apns_server import KEY_ID, TEAM_ID, TOPIC, ApnsServer
from tests.contracts.fcm_server import FcmServer
from tests.fixtures.service import Service, a_request, a_service
from tests.fixtures.stack import Databases


@pytest.fixture(scope="module")
async def fcm() -> AsyncIterator[FcmServer]:
    server = FcmServer()
    await server.start()
    yield server
    await server.stop()
    assert server.complaints == []


@pytest.fixture(scope="module")
async def apns(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApnsServer]:
    server = ApnsServer(tmp_path_factory.mktemp("apns"))
    yield server
    server.end()


@pytest.fixture(scope="module")
async def service(kafka: str, postgres: Databases, migrated: str, valkey: str) -> AsyncIterator[Service]:
    quick = {"max_attempts": 3, "base_seconds": 0.05, "ceiling_seconds": 0.2}
    async with a_service(kafka, postgres, migrated, valkey, push_retry=quick) as running:
        yield running


def vendors(settings: Settings, fcm: FcmServer, apns: ApnsServer) -> tuple[FcmProvider, ApnsProvider]:
    keys = {
        "fcm_server_key": fcm.account,
        "fcm_base_url": fcm.url,
        "apns_key_path": str(apns.key_path),
        "apns_key_id": KEY_ID,
        "apns_team_id": TEAM_ID,
        "apns_topic": TOPIC,
        "apns_base_url": apns.url,
    }
    given = settings.model_copy(update=keys)
    return FcmProvider(given), ApnsProvider(given)


async def register(service: Service, user: str, *devices: tuple[str, str]) -> None:
    for platform, token in devices:
        async with service.engine.begin() as connection:
            await contacts.put_device(connection, user_id=user, platform=platform, token=token, kind=None)


async def test_one_message_reaches_all_live_devices_and_the_dead_one_is_forgotten(
    service: Service, fcm: FcmServer, apns: ApnsServer
) -> None:
    user, unique = f"u-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    live, dead, later, apple = f"live-{unique}", f"dead-{unique}", f"later-{unique}", unique
    await register(service, user, ("fcm", live), ("fcm", dead), ("fcm", later), ("apns", apple))
    fcm.answers = {dead: "UNREGISTERED", later: "INTERNAL"}
    providers = vendors(service.settings, fcm, apns)
    content = {"title": "Hi {{ name }}", "body": "Hello"}
    first = a_request(user, channel="push", recipient={}, content=content)
    second = a_request(user, channel="push", recipient={}, content=content)
    async with (
        open_people(service.settings) as people,
        service.worker(providers={Channel.PUSH: providers}, people=people),
    ):
        await service.publish(first)
        await service.until(uuid.UUID(first["id"]), "retrying", "sent")
        fcm.answers.pop(later)
        assert await service.until(uuid.UUID(first["id"]), "sent", "failed") == "sent"
        await service.publish(second)
        assert await service.until(uuid.UUID(second["id"]), "sent", "failed") == "sent"
    for provider in providers:
        await provider.close()
    assert [body["message"]["token"] for body in fcm.bodies].count(live) == 2, "once a message"
    assert [body["message"]["token"] for body in fcm.bodies].count(later) == 2
    assert [message["token"] for message in apns.messages] == [apple, apple]
    left = await service.fetch("SELECT token FROM devices WHERE user_id = :user", user=user)
    assert {row.token for row in left} == {live, later, apple}
    outcomes = await service.fetch(
        "SELECT l.outcome, l.reason FROM delivery_logs AS l JOIN notification_deliveries USING (delivery_id) "
        "WHERE notification_id = :id ORDER BY attempt",
        id=uuid.UUID(second["id"]),
    )
    assert [tuple(row) for row in outcomes] == [(Outcome.SENT, None)], "the dead device was not asked again"
