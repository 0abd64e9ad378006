"""Suppression from end to end, on Kafka: who leaves while a mail is queued, who is dead, whose bulk is paused."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest

from models.enums import Channel, Outcome
from streams.bounce_guard import BounceGuard
from streams.providers.base import DeliveryResult
from tests.fixtures.api import an_api
from tests.fixtures.service import Ledger, Service, a_request, a_service
from tests.fixtures.stack import Databases, Identity

REQUESTS = {"requests-high", "requests-normal", "requests-low"}
SENDS = {"send-email-high", "send-email-normal", "send-email-low"}
DEAD = "550 5.1.1"


def answer(delivery: Any) -> DeliveryResult:
    """Nobody is at `dead…`."""
    if delivery.to.startswith("dead"):
        return DeliveryResult(outcome=Outcome.TARGET_DEAD, provider="ledger", reason=DEAD)
    return DeliveryResult(outcome=Outcome.SENT, provider="ledger")


@pytest.fixture
async def service(kafka: str, postgres: Databases, migrated: str, valkey: str) -> AsyncIterator[Service]:
    more = {"secret_key": "a key", "public_url": "https://comms.example.com", "bounce_rate_least_sent": 20}
    async with a_service(kafka, postgres, migrated, valkey, **more) as running:
        yield running


async def reason(service: Service, notification: UUID) -> str | None:
    [row] = await service.fetch(
        "SELECT reason FROM notification_deliveries WHERE notification_id = :id", id=notification
    )
    found: str | None = row.reason
    return found


async def test_who_leaves_while_a_mail_is_queued_does_not_get_it(service: Service, identity: Identity) -> None:
    first, second, receipt = (a_request("u-1", category=name) for name in ("news", "news", "receipts"))
    await service.execute(
        "INSERT INTO notification_categories"
        " (key, transactional, default_channels, priority, quiet_hours, created_at, updated_at)"
        " VALUES ('receipts', true, '[]', NULL, 'ignore', now(), now())"
    )
    async with service.worker(only=REQUESTS):
        await service.publish(first)
        await service.until(UUID(first["id"]), "queued")
        [record] = await service.records("notification.send.email.normal", count=1)
        link = orjson.loads(record.value)["unsubscribe_url"]
        async with an_api(service, identity) as api, httpx.AsyncClient(base_url=api.url) as mail_program:
            done = await mail_program.post(httpx.URL(link).path, data={"List-Unsubscribe": "One-Click"})
            assert done.status_code == 200
        await service.publish(second)
        await service.until(UUID(second["id"]), "suppressed")
        await service.publish(receipt)
        await service.until(UUID(receipt["id"]), "queued")
    ledger = Ledger()
    async with service.worker(providers={Channel.EMAIL: (ledger,)}, only=SENDS):
        await service.until(UUID(receipt["id"]), "sent")
        await service.until(UUID(first["id"]), "suppressed")
    assert [str(call.notification_id) for call in ledger.calls] == [receipt["id"]]
    assert ledger.calls[0].unsubscribe_url is None
    assert await reason(service, UUID(first["id"])) == "unsubscribed"
    told = await service.events("notification.status", UUID(first["id"]), count=3)
    assert told[-1]["status"] == "suppressed"
    assert told[-1]["reason"] == "unsubscribed"


async def test_too_many_dead_addresses_hold_back_the_bulk_of_their_category_alone(service: Service) -> None:
    ledger = Ledger(answer=answer)
    guard = BounceGuard(engine=service.engine, settings=service.settings, every=timedelta(), settled=timedelta())
    async with service.worker(providers={Channel.EMAIL: (ledger,)}, only=REQUESTS | SENDS):
        sent = [
            a_request(f"{'dead' if n % 10 == 0 else 'live'}-{uuid.uuid4().hex}", category="news") for n in range(20)
        ]
        for request in sent:
            await service.publish(request, priority="low")
        for request in sent:
            await service.until(UUID(request["id"]), "sent", "failed")
        dead = sent[0]["user_id"]
        [row] = await service.fetch("SELECT * FROM bounce_records WHERE address = :to", to=f"{dead}@example.com")
        assert (row.kind, row.reason, row.category) == ("hard", DEAD, "news")
        assert [(one.category, one.sent, one.bounced) for one in await guard.look()] == [("news", 20, 2)]

        again = a_request(dead, category="tips")
        await service.publish(again)
        await service.until(UUID(again["id"]), "suppressed")
        assert await reason(service, UUID(again["id"])) == "bounced"

        bulk = [a_request(category="news") for _ in range(5)]
        for request in bulk:
            await service.publish(request, priority="low")
        waiting = await service.records("notification.delay.10m", count=5)
        assert {orjson.loads(record.value)["notification_id"] for record in waiting} == {one["id"] for one in bulk}
        for priority, category in (("normal", "news"), ("low", "tips")):
            other = a_request(category=category)
            await service.publish(other, priority=priority)
            await service.until(UUID(other["id"]), "sent")
        assert {await service.status(UUID(one["id"])) for one in bulk} == {"queued"}
    assert not [call for call in ledger.calls if str(call.notification_id) in {one["id"] for one in bulk}]
