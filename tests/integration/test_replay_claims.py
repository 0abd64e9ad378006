"""What a replay may do to rows: leave `failed`, once, and never over a cancellation or a message that went out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from models.enums import Channel, Status
from models.repositories import cancellation
from tests.fixtures.rows import Rows, attempt, change, delivery, some_rows
from tests.fixtures.stack import Databases

EMAIL, SMS = Channel.EMAIL, Channel.SMS


@pytest.fixture(scope="module")
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated) as made:
        yield made


async def failed(rows: Rows, *channels: Channel) -> UUID:
    notification = await rows.queued(*channels)
    for channel in channels or (EMAIL,):
        await rows.advance(change(notification, channel, Status.FAILED, attempts=1))
    return notification


async def cancel(rows: Rows, notification: UUID) -> cancellation.Cancellation:
    async with rows.engine.begin() as connection:
        return await cancellation.cancel(connection, notification, client="tests")


async def test_a_replay_leaves_failed(rows: Rows) -> None:
    notification = await failed(rows)
    await rows.advance(change(notification, EMAIL, Status.QUEUED, generation=1))
    assert await rows.status(notification) == "queued"
    [claim] = await rows.claim(delivery(notification, generation=1))
    assert claim.won
    await rows.finish(attempt(delivery(notification, generation=1)))
    await rows.advance(change(notification, EMAIL, Status.SENT, generation=1, attempts=1))
    assert await rows.status(notification) == "sent"


async def test_its_record_may_be_there_before_its_status(rows: Rows) -> None:
    notification = await failed(rows)
    assert [claim.won for claim in await rows.claim(delivery(notification, generation=1))] == [True]


async def test_also_where_another_channel_was_replayed_before_and_is_done(rows: Rows) -> None:
    notification = await failed(rows, EMAIL, SMS)
    await rows.advance(change(notification, EMAIL, Status.SENT, generation=1, attempts=1))
    assert await rows.status(notification) == "sent"
    assert [claim.won for claim in await rows.claim(delivery(notification, SMS, generation=1))] == [True]
    await rows.advance(change(notification, SMS, Status.QUEUED, generation=1))
    assert await rows.status(notification) == "queued"


async def test_what_a_proof_of_delivery_says_was_sent_is_not_sent_again(rows: Rows) -> None:
    notification = await failed(rows)
    await rows.advance(change(notification, EMAIL, Status.DELIVERED))
    [claim] = await rows.claim(delivery(notification, generation=1))
    assert claim.forbidden == "already_sent"


async def test_an_older_generation_is_over(rows: Rows) -> None:
    notification = await failed(rows)
    await rows.advance(change(notification, EMAIL, Status.QUEUED, generation=2))
    assert [claim.forbidden for claim in await rows.claim(delivery(notification, generation=1))] == ["superseded"]


async def test_a_replay_that_was_cancelled_is_not_opened_again(rows: Rows) -> None:
    notification = await failed(rows, EMAIL, SMS)
    await rows.advance(change(notification, EMAIL, Status.QUEUED, generation=1))
    assert (await cancel(rows, notification)).changed
    late = change(notification, SMS, Status.QUEUED, generation=1)
    await rows.advance(late)
    [claim] = await rows.claim(delivery(notification, SMS, generation=1))
    assert claim.forbidden == "cancelled"
    assert (await rows.statuses(notification))["email"] == "cancelled"


async def test_cancelled_beside_what_failed_it_is_not_replayed(rows: Rows) -> None:
    notification = await rows.queued(EMAIL, SMS)
    await rows.advance(change(notification, EMAIL, Status.FAILED, attempts=1))
    assert (await cancel(rows, notification)).changed
    [claim] = await rows.claim(delivery(notification, EMAIL, generation=1))
    assert claim.forbidden == "cancelled"


async def test_a_fan_out_that_fails_late_does_not_turn_a_cancellation_into_a_failure(rows: Rows) -> None:
    notification = await rows.notification()
    assert (await cancel(rows, notification)).changed
    await rows.fan_out(notification, (EMAIL,), Status.FAILED)
    assert await rows.status(notification) == "cancelled"


async def test_only_a_message_that_went_out_leaves_cancelled(rows: Rows) -> None:
    notification = await rows.queued()
    assert (await cancel(rows, notification)).changed
    await rows.advance(change(notification, EMAIL, Status.QUEUED, generation=1))
    assert await rows.status(notification) == "cancelled"
    await rows.advance(change(notification, EMAIL, Status.SENT, generation=1))
    assert await rows.status(notification) == "sent"
