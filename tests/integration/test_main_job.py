"""From a record on a request topic to the provider, the rows and the events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from models.enums import Channel, Outcome
from models.ids import rfc3339
from streams.providers.base import DeliveryResult
from streams.topics import DEAD_LETTERS, FAILED, SENT, STATUS
from tests.fixtures.service import Ledger, Service, a_request

_FAILURES = "SELECT * FROM delivery_failures WHERE notification_id = :id"


@pytest.fixture(scope="module")
async def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(scope="module", autouse=True)
async def worker(service: Service, ledger: Ledger) -> AsyncIterator[None]:
    async with service.worker(providers={Channel.EMAIL: (ledger,)}):
        yield


async def test_a_request_reaches_the_provider_rows_and_events(service: Service, ledger: Ledger) -> None:
    request = a_request(metadata={"order": "4711"})
    notification = UUID(request["id"])
    await service.publish(request)

    assert await service.until(notification, "sent") == "sent"
    [call] = ledger.of(notification)
    assert call.content == {"subject": "Hi Ada", "text": "Hello Ada"}
    assert call.to == request["recipient"]["email"]
    [delivery] = await service.fetch(
        "SELECT * FROM notification_deliveries WHERE notification_id = :id", id=notification
    )
    assert (delivery.status, delivery.provider, delivery.provider_message_id, delivery.attempts) == (
        "sent",
        "ledger",
        "m-1",
        1,
    )
    [sent] = await service.events(SENT, notification, count=1)
    assert sent["channel"] == "email"
    assert sent["metadata"] == {"order": "4711"}
    statuses = await service.events(STATUS, notification, count=3)
    assert [(event.get("channel"), event["status"]) for event in statuses] == [
        (None, "accepted"),
        ("email", "queued"),
        ("email", "sent"),
    ]


async def test_a_repeat_sends_nothing_again(service: Service, ledger: Ledger) -> None:
    request = a_request()
    notification = UUID(request["id"])
    await service.publish(request)
    await service.until(notification, "sent")
    await service.publish(request)
    after = a_request(request["user_id"])
    await service.publish(after)
    await service.until(UUID(after["id"]), "sent")
    assert len(ledger.of(notification)) == 1


async def test_the_same_id_with_another_body_is_a_dead_letter(service: Service, ledger: Ledger) -> None:
    request = a_request()
    notification = UUID(request["id"])
    await service.publish(request)
    await service.until(notification, "sent")
    await service.publish({**request, "data": {"name": "Eve"}})
    rows = await _failures(service, notification)
    assert [row.error_class for row in rows] == ["id_conflict"]
    assert len(ledger.of(notification)) == 1


async def test_a_retry_follows_and_the_last_failure_is_one_dead_letter(service: Service, ledger: Ledger) -> None:
    request = a_request()
    notification = UUID(request["id"])

    def refuse(delivery: object) -> DeliveryResult:
        return DeliveryResult(outcome=Outcome.RETRY, provider="ledger", reason="busy")

    before, ledger.answer = ledger.answer, lambda d: refuse(d) if d.notification_id == notification else before(d)
    await service.publish(request)
    await service.until(notification, "failed")
    ledger.answer = before

    assert [call.attempt for call in ledger.of(notification)] == [1, 2, 3]
    [row] = await _failures(service, notification)
    assert (row.stage, row.error_class, row.error_reason, row.attempts) == ("delivery", "retry", "busy", 3)
    [failed] = await service.events(FAILED, notification, count=1)
    assert (failed["error"], failed["retry_count"]) == ("busy", 2)
    letters = await service.records(DEAD_LETTERS, count=1)
    headers = {name: value for letter in letters for name, value in letter.headers if letter.value}
    assert headers["content-type"] == b"application/json"


async def test_a_missing_variable_is_a_permanent_failure_that_names_it(service: Service, ledger: Ledger) -> None:
    request = a_request(data={})
    notification = UUID(request["id"])
    await service.publish(request)
    await service.until(notification, "failed")
    [row] = await _failures(service, notification)
    assert row.error_reason == "variable_missing: name"
    assert ledger.of(notification) == []


async def test_in_app_lands_in_the_inbox(service: Service) -> None:
    request = a_request(channel="in_app", content={"title": "Hi {{ name }}", "body": "There"})
    await service.publish(request, priority="high")
    await service.until(UUID(request["id"]), "sent")
    [item] = await service.fetch("SELECT title, body FROM inbox WHERE user_id = :user", user=request["user_id"])
    assert tuple(item) == ("Hi Ada", "There")


async def test_an_opt_out_suppresses_one_channel_only(service: Service, ledger: Ledger) -> None:
    request = a_request(channels=["email", "in_app"], content={"subject": "S", "title": "T", "text": "B", "body": "B"})
    del request["channel"]
    await service.execute(
        "INSERT INTO notification_preferences (user_id, channels, categories, updated_at)"
        " VALUES (:user, '{\"email\": false}', '{}', now())",
        user=request["user_id"],
    )
    await service.publish(request)
    await service.until(UUID(request["id"]), "sent")
    rows = await service.fetch(
        "SELECT channel, status, reason FROM notification_deliveries WHERE notification_id = :id ORDER BY channel",
        id=UUID(request["id"]),
    )
    assert [tuple(row) for row in rows] == [("email", "suppressed", "opted_out"), ("in_app", "sent", None)]


async def test_a_request_past_its_time_expires_and_a_later_one_waits(service: Service, ledger: Ledger) -> None:
    late = a_request(expires_at="2026-01-01T00:00:00Z")
    await service.publish(late)
    assert await service.until(UUID(late["id"]), "expired", "sent") == "expired"

    later = a_request(send_at=rfc3339(datetime.now(UTC) + timedelta(seconds=2)))
    await service.publish(later)
    await service.until(UUID(later["id"]), "scheduled")
    await service.until(UUID(later["id"]), "sent")
    [times] = await service.fetch(
        "SELECT n.send_at, l.claimed_at FROM notifications n JOIN notification_deliveries d ON d.notification_id = n.id"
        " JOIN delivery_logs l ON l.delivery_id = d.delivery_id WHERE n.id = :id",
        id=UUID(later["id"]),
    )
    assert times.claimed_at >= times.send_at


async def test_poison_among_good_records_is_a_dead_letter_unchanged(service: Service, ledger: Ledger) -> None:
    good = [a_request("u-1") for _ in range(3)]
    await service.publish(good[0])
    await service.publish(b"\xff\xfe{")
    await service.publish(None, key="u-1")
    await service.publish(good[1])
    await service.publish(good[2])
    for request in good:
        await service.until(UUID(request["id"]), "sent", within_seconds=10)
    async with asyncio.timeout(10):
        while not [r for r in await service.records(DEAD_LETTERS, count=1) if r.value == b"\xff\xfe{"]:
            await asyncio.sleep(0.1)


async def _failures(service: Service, notification: UUID) -> list[object]:
    async with asyncio.timeout(10):
        while not (rows := await service.fetch(_FAILURES, id=notification)):
            await asyncio.sleep(0.05)
    return rows
