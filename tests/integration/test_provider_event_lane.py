"""The lane of providers' events as a worker runs it, from its topic to the topics of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from models.enums import Channel, EventKind
from models.ids import delivery_id
from models.provider_events import ProviderEvent
from models.repositories import waiting_events
from streams.records import Outgoing
from streams.topics import DEAD_LETTERS, PROVIDER_EVENTS, STATUS
from tests.fixtures.records import RawClient, raw_client
from tests.fixtures.service import Ledger, Service, a_request
from tests.fixtures.told import told

LANE = "provider-events"
LANES = {"requests-normal", "send-email-normal", LANE, "provider-events-unmatched"}


class Named(Ledger):
    """A vendor whose message ids are known beforehand: a callback may be faster than its answer."""

    name = "sendgrid"


@pytest.fixture(scope="module")
async def raw(service: Service) -> AsyncIterator[RawClient]:
    async with raw_client(service.settings) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
async def worker(service: Service) -> AsyncIterator[None]:
    async with service.worker(providers={Channel.EMAIL: (Named(),)}, only=LANES):
        yield


async def tell(service: Service, *events: ProviderEvent) -> None:
    await service.publisher.send_all([Outgoing(PROVIDER_EVENTS, one.key, one.record_value()) for one in events])


async def a_sent(service: Service) -> UUID:
    request = a_request()
    await service.publish(request)
    await service.until(UUID(request["id"]), "sent")
    return UUID(request["id"])


async def test_from_the_topic_to_the_status_and_to_others(service: Service) -> None:
    notification = await a_sent(service)
    one = delivery_id(notification, Channel.EMAIL)  # their key, so that they come in this order
    steps = [told(kind, delivery_id=one) for kind in (EventKind.OPENED, EventKind.DELIVERED)]
    await tell(service, *steps, *steps)
    await service.until(notification, "opened")
    values = await service.events(STATUS, notification, count=4)
    assert [value["status"] for value in values if value["status"] in ("delivered", "opened", "bounced")] == ["opened"]


async def test_poison_holds_up_nobody(service: Service, raw: RawClient) -> None:
    notification = await a_sent(service)
    poison: list[Any] = [b"\x00", None, b"[]", b'{"event_id": "x", "kind": "never heard of"}']
    for value in poison:
        for partition in range(service.settings.kafka_partitions):
            await raw.put(PROVIDER_EVENTS, value, partition=partition)
    await tell(service, told(EventKind.BOUNCED, notification_id=notification))
    await service.until(notification, "bounced")
    await raw.until_done(LANE, PROVIDER_EVENTS)
    letters = [dict(letter.headers)["stage"] for letter in await raw.read(DEAD_LETTERS)]
    assert letters == [b"provider_event"] * len(poison) * service.settings.kafka_partitions


async def test_an_event_before_its_request_waits_and_is_matched(service: Service) -> None:
    request = a_request()
    notification = UUID(request["id"])
    await tell(service, told(notification_id=notification), told(provider_message_id=f"foreign-{uuid4()}"))
    async with asyncio.timeout(10):
        while await waiting(service) < 2:
            await asyncio.sleep(0.05)
    await service.publish(request)
    await service.until(notification, "delivered", within_seconds=30)
    async with asyncio.timeout(10):
        while await waiting(service) > 1:
            await asyncio.sleep(0.05)
    values = await service.events(STATUS, notification, count=4)
    assert [value["status"] for value in values].count("delivered") == 1


async def waiting(service: Service) -> int:
    async with service.engine.connect() as connection:
        return (await waiting_events.unmatched(connection)).waiting
