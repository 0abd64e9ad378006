"""Cancelling: before, while and after a lane claims the attempt."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import orjson
import pytest

from models.changes import Attempt, Change
from models.deliveries import Delivery
from models.enums import Channel, Outcome, Status
from models.ids import delivery_id, event_id
from models.repositories import deliveries
from models.status import RANK
from streams.topics import STATUS
from tests.fixtures.service import a_request

if TYPE_CHECKING:
    from tests.fixtures.api import RunningApi


PATH = "/api/v1/notifications"
LEASE = timedelta(seconds=10)


async def accepted(api: RunningApi) -> UUID:
    answer = await api.sender.post(PATH, json=a_request())
    assert answer.status_code == 202, answer.text
    return UUID(answer.json()["notification_id"])


def delivery(notification_id: UUID, channel: Channel = Channel.EMAIL, attempt: int = 1) -> Delivery:
    return Delivery(
        delivery_id=delivery_id(notification_id, channel),
        notification_id=notification_id,
        attempt=attempt,
        user_id="u-1",
        channel=channel,
        category="general",
        to="ada@example.com",
        content={"text": "x"},
        created_at=datetime.now(UTC),
    )


def change(one: Delivery, status: Status, attempts: int = 0) -> Change:
    return Change(
        delivery_id=one.delivery_id,
        notification_id=one.notification_id,
        status=status,
        rank=RANK[status],
        generation=0,
        attempts=attempts,
    )


async def fanned_out(api: RunningApi, *channels: Channel) -> tuple[UUID, list[Delivery]]:
    """A notification whose deliveries are queued, as its request lane leaves it."""
    notification_id = await accepted(api)
    made = [delivery(notification_id, channel) for channel in channels or (Channel.EMAIL,)]
    changes = [change(one, Status.QUEUED) for one in made]
    async with api.service.engine.begin() as connection:
        await deliveries.insert(connection, changes, [one.channel for one in made])
        await deliveries.advance(connection, changes)
    return notification_id, made


async def claim(api: RunningApi, one: Delivery) -> deliveries.Claim:
    async with api.service.engine.begin() as connection:
        return (await deliveries.claim(connection, [one], lease=LEASE))[one.delivery_id, 0, one.attempt]


async def finish(api: RunningApi, one: Delivery, outcome: Outcome, status: Status) -> None:
    """Ends a claimed attempt as its lane does."""
    attempt = Attempt(
        delivery_id=one.delivery_id,
        generation=0,
        attempt=one.attempt,
        outcome=outcome,
        provider="ledger",
        provider_message_id=None,
        reason=None,
        retry_at=None,
        finished_at=datetime.now(UTC),
    )
    async with api.service.engine.begin() as connection:
        await deliveries.finish(connection, [attempt])
        await deliveries.advance(connection, [change(one, status, attempts=one.attempt)])


async def cancel(api: RunningApi, notification_id: UUID) -> tuple[int, dict[str, Any]]:
    answer = await api.sender.post(f"{PATH}/{notification_id}/cancel")
    return answer.status_code, answer.json()


async def queued_events(api: RunningApi, notification_id: UUID) -> list[dict[str, Any]]:
    """What waits in the outbox to be told about a notification."""
    rows = await api.service.fetch("SELECT topic, value FROM message_queue ORDER BY id")
    events = [orjson.loads(bytes(row.value)) for row in rows if row.topic == STATUS]
    return [event for event in events if event["notification_id"] == str(notification_id)]


async def test_what_waits_for_its_lane_is_cancelled_and_told_once(api: RunningApi) -> None:
    notification_id, (email, in_app) = await fanned_out(api, Channel.EMAIL, Channel.IN_APP)
    body = {"notification_id": str(notification_id), "status": "cancelled"}
    assert await cancel(api, notification_id) == (200, body)
    assert await cancel(api, notification_id) == (200, body)
    assert (await claim(api, email)).forbidden == "cancelled"
    assert (await claim(api, in_app)).forbidden == "cancelled"
    found = (await api.sender.get(f"{PATH}/{notification_id}")).json()
    assert found["status"] == "cancelled"
    assert {one["status"] for one in found["deliveries"]} == {"cancelled"}
    assert "cancelled" in {entry["event"] for entry in found["timeline"]}
    events = await queued_events(api, notification_id)
    assert {event["status"] for event in events} == {"cancelled"}
    assert {event["event_id"] for event in events} == {
        str(event_id(notification_id, 0, 0, "cancelled")),
        *(str(event_id(one.delivery_id, 0, 1, "cancelled")) for one in (email, in_app)),
    }
    assert len(events) == 3


async def test_before_its_lane_has_seen_it(api: RunningApi) -> None:
    notification_id = await accepted(api)
    assert (await cancel(api, notification_id))[0] == 200
    one = delivery(notification_id)
    async with api.service.engine.begin() as connection:  # The lane fans out all the same, and changes nothing.
        await deliveries.insert(connection, [change(one, Status.QUEUED)], [one.channel])
        await deliveries.advance(connection, [change(one, Status.QUEUED)])
    assert (await claim(api, one)).forbidden == "cancelled"
    assert (await api.sender.get(f"{PATH}/{notification_id}")).json()["status"] == "cancelled"


async def test_before_the_request_has_come(api: RunningApi) -> None:
    request = a_request()
    assert (await cancel(api, UUID(request["id"])))[0] == 200
    assert await queued_events(api, UUID(request["id"])) == []
    answer = await api.sender.post(PATH, json=request)
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert (await api.user.get(f"{PATH}/{request['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (None, None),
        (Outcome.SENT, Status.SENT),
        (Outcome.AMBIGUOUS, Status.RETRYING),
        (Outcome.PERMANENT, Status.FAILED),
    ],
    ids=["claimed", "sent", "ambiguous", "failed"],
)
async def test_too_late(api: RunningApi, outcome: Outcome | None, status: Status | None) -> None:
    notification_id, (one,) = await fanned_out(api)
    assert (await claim(api, one)).won
    if outcome is not None and status is not None:
        await finish(api, one, outcome, status)
    answered, problem = await cancel(api, notification_id)
    assert (answered, problem["code"]) == (409, "too_late")
    assert await queued_events(api, notification_id) == []


async def test_a_failed_attempt_that_will_be_made_again_can_be_cancelled(api: RunningApi) -> None:
    notification_id, (one,) = await fanned_out(api)
    assert (await claim(api, one)).won
    await finish(api, one, Outcome.RETRY, Status.RETRYING)
    assert (await cancel(api, notification_id))[0] == 200
    assert (await claim(api, one.next_attempt(tries=1, ambiguous=0))).forbidden == "cancelled"
    events = await queued_events(api, notification_id)
    assert str(event_id(one.delivery_id, 0, 2, "cancelled")) in {event["event_id"] for event in events}


async def test_one_sent_delivery_makes_it_too_late_for_all(api: RunningApi) -> None:
    notification_id, (email, in_app) = await fanned_out(api, Channel.EMAIL, Channel.IN_APP)
    assert (await claim(api, in_app)).won
    await finish(api, in_app, Outcome.SENT, Status.SENT)
    assert (await cancel(api, notification_id))[0] == 409
    assert (await claim(api, email)).won


async def test_a_cancellation_and_a_claim_at_the_same_moment_never_both_win(api: RunningApi) -> None:
    for number in range(60):
        notification_id, (one,) = await fanned_out(api)

        async def claimed(one: Delivery = one, wait: float = number % 20 / 2000) -> deliveries.Claim:
            await asyncio.sleep(wait)  # An HTTP request takes some milliseconds: meet all of its moments.
            return await claim(api, one)

        (status, _), answer = await asyncio.gather(cancel(api, notification_id), claimed())
        assert (status == 200) != answer.won, (status, answer)


async def test_only_services_cancel(api: RunningApi) -> None:
    assert (await api.user.post(f"{PATH}/{uuid4()}/cancel")).status_code == 403
