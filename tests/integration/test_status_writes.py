"""The one function that writes status: by compare-and-set, never backwards, whoever writes at the same time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.changes import Change
from models.enums import Channel, Status
from models.ids import delivery_id
from models.repositories import cancellation, deliveries, notifications
from models.repositories.notifications import OwnChange
from models.status import ENDED_RANK, PRECEDENCE, RANK, overall
from tests.fixtures.rows import Rows, change, some_rows
from tests.fixtures.stack import Databases

EMAIL, SMS, PUSH, IN_APP = Channel.EMAIL, Channel.SMS, Channel.PUSH, Channel.IN_APP
#: What lanes and callbacks write.
WRITTEN = [status for status in Status if status not in (Status.ACCEPTED, Status.SCHEDULED)]


@pytest.fixture(scope="module")
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated, connections=24) as made:
        yield made


@pytest.mark.parametrize(("before", "after"), itertools.product(WRITTEN, WRITTEN))
async def test_it_goes_forward_only(rows: Rows, before: Status, after: Status) -> None:
    notification = await rows.queued()
    await rows.advance(change(notification, EMAIL, before))
    moved = await rows.advance(change(notification, EMAIL, after))
    expected = after if RANK[after] > RANK[before] else before
    assert bool(moved) == (RANK[after] > RANK[before])
    assert await rows.statuses(notification) == {"email": expected}
    assert await rows.status(notification) == expected


@pytest.mark.parametrize("status", WRITTEN)
async def test_a_repeat_changes_nothing(rows: Rows, status: Status) -> None:
    notification = await rows.queued()
    once = change(notification, EMAIL, status, attempts=3, reason="r", provider="p", provider_message_id="m")
    await rows.advance(once)
    statement = "SELECT * FROM notification_deliveries WHERE notification_id = :id"
    before = await rows.fetch(statement, id=notification)
    assert await rows.advance(once) == set()
    assert await rows.fetch(statement, id=notification) == before


async def test_a_later_attempt_retries_over_an_earlier_one_and_never_the_other_way(rows: Rows) -> None:
    notification = await rows.queued()
    for attempts, moved in ((1, True), (3, True), (2, False), (3, False), (4, True)):
        retrying = change(notification, EMAIL, Status.RETRYING, attempts=attempts, reason=f"try {attempts}")
        assert bool(await rows.advance(retrying)) is moved
    [row] = await rows.fetch(
        "SELECT attempts, reason FROM notification_deliveries WHERE notification_id = :id", id=notification
    )
    assert tuple(row) == (4, "try 4")


async def test_an_end_is_not_replaced_by_another_with_more_attempts(rows: Rows) -> None:
    for first, second in itertools.permutations((Status.FAILED, Status.CANCELLED, Status.EXPIRED), 2):
        notification = await rows.queued()
        await rows.advance(change(notification, EMAIL, first, attempts=1))
        assert await rows.advance(change(notification, EMAIL, second, attempts=5)) == set()
        assert await rows.status(notification) == first


async def test_a_replay_leaves_an_end_and_an_old_generation_does_not_come_back(rows: Rows) -> None:
    notification = await rows.queued()
    await rows.advance(change(notification, EMAIL, Status.FAILED, attempts=6))
    await rows.advance(change(notification, EMAIL, Status.QUEUED, generation=1))
    assert await rows.status(notification) == "queued"
    assert await rows.advance(change(notification, EMAIL, Status.SENT, attempts=7)) == set()
    await rows.advance(change(notification, EMAIL, Status.SENT, generation=1, attempts=1))
    assert await rows.status(notification) == "sent"


async def test_provider_and_doubt_stay_when_a_later_change_does_not_know_them(rows: Rows) -> None:
    notification = await rows.queued()
    sent = change(notification, EMAIL, Status.SENT, provider="p", provider_message_id="m", ambiguous=True)
    await rows.advance(sent)
    await rows.advance(change(notification, EMAIL, Status.DELIVERED))
    [row] = await rows.fetch(
        "SELECT provider, provider_message_id, ambiguous FROM notification_deliveries WHERE notification_id = :id",
        id=notification,
    )
    assert tuple(row) == ("p", "m", True)


async def test_two_changes_of_one_delivery_in_one_call_come_to_the_later(rows: Rows) -> None:
    for order in (1, -1):
        notification = await rows.queued()
        both = [
            change(notification, EMAIL, Status.RETRYING, attempts=1),
            change(notification, EMAIL, Status.SENT, attempts=2),
        ]
        await rows.advance(*both[::order])
        assert await rows.statuses(notification) == {"email": "sent"}


@pytest.mark.parametrize("pair", list(itertools.product(WRITTEN, WRITTEN)), ids="-".join)
async def test_the_overall_status_of_two_deliveries(rows: Rows, pair: tuple[Status, Status]) -> None:
    notification = await rows.queued(EMAIL, SMS)
    for channel, status in zip((EMAIL, SMS), pair, strict=True):
        await rows.advance(change(notification, channel, status))
    assert PRECEDENCE[Status(await rows.status(notification))] == PRECEDENCE[overall(list(pair))]


async def test_channels_that_finish_at_once_leave_nothing_stale(rows: Rows) -> None:
    """Each on a connection of its own: the last to commit sees the others."""
    ends = (Status.SENT, Status.FAILED, Status.DELIVERED, Status.SUPPRESSED, Status.EXPIRED)
    dice = random.Random(3)
    for _ in range(60):
        notification = await rows.queued(EMAIL, SMS, PUSH, IN_APP)
        finals = {channel: dice.choice(ends) for channel in Channel}
        await asyncio.gather(*(rows.advance(change(notification, channel, end)) for channel, end in finals.items()))
        assert await rows.statuses(notification) == finals
        assert await rows.status(notification) == overall(list(finals.values()))


async def test_batches_with_overlapping_ids_in_any_order_do_not_deadlock(rows: Rows) -> None:
    all_of_them = [await rows.queued(EMAIL, SMS) for _ in range(40)]

    async def lane(seed: int) -> None:
        dice = random.Random(seed)
        for number in range(15):
            some = [change(one, dice.choice((EMAIL, SMS)), Status.RETRYING, attempts=number) for one in
                    dice.sample(all_of_them, 25)]  # fmt: skip
            await rows.advance(*some)
            own = [OwnChange(id=one, status=Status.SCHEDULED) for one in dice.sample(all_of_them, 10)]
            async with rows.engine.begin() as connection:
                await notifications.advance(connection, own)

    async with asyncio.timeout(60):
        await asyncio.gather(*(lane(seed) for seed in range(12)))


async def cancel(rows: Rows, notification: UUID) -> cancellation.Cancellation:
    async with rows.engine.begin() as connection:
        return await cancellation.cancel(connection, notification, client="tests")


async def test_cancelled_stays_cancelled_when_a_late_fan_out_arrives(rows: Rows) -> None:
    notification = await rows.notification()
    assert not (await cancel(rows, notification)).too_late
    await rows.fan_out(notification, [EMAIL, SMS])
    assert await rows.status(notification) == "cancelled"
    await rows.advance(change(notification, EMAIL, Status.CANCELLED))
    assert await rows.status(notification) == "cancelled"
    await rows.advance(change(notification, SMS, Status.CANCELLED))
    assert await rows.status(notification) == "cancelled"
    assert not (await cancel(rows, notification)).too_late


async def test_a_throttled_one_that_is_fanned_out_does_not_go_back_to_queued(rows: Rows) -> None:
    notification = await rows.notification()
    async with rows.engine.begin() as connection:
        await notifications.advance(connection, [OwnChange(id=notification, status=Status.THROTTLED)])
    await rows.fan_out(notification, [EMAIL, SMS])
    assert await rows.statuses(notification) == {"email": "queued", "sms": "queued"}
    assert await rows.status(notification) == "throttled"
    await rows.advance(change(notification, EMAIL, Status.RETRYING, attempts=1))
    assert await rows.status(notification) == "throttled"
    await rows.advance(change(notification, SMS, Status.RETRYING, attempts=1))
    assert await rows.status(notification) == "retrying"
    await rows.advance(change(notification, EMAIL, Status.SENT), change(notification, SMS, Status.SENT))
    assert await rows.status(notification) == "sent"


async def test_a_fan_out_and_a_cancellation_at_once(rows: Rows) -> None:
    for _ in range(60):
        notification = await rows.notification()
        _, cancelled = await asyncio.gather(rows.fan_out(notification, [EMAIL, SMS]), cancel(rows, notification))
        assert not cancelled.too_late
        assert await rows.status(notification) == "cancelled"


@dataclass
class Model:
    """What CONTRACT says of one delivery, without a database."""

    status: Status = Status.QUEUED
    generation: int = 0
    attempts: int = 0

    def write(self, new: Change) -> None:
        old, given = (self.generation, RANK[self.status]), (new.generation, RANK[new.status])
        again = old == given and given[1] < ENDED_RANK and new.attempts > self.attempts
        if given > old or again:
            self.status, self.generation, self.attempts = new.status, new.generation, new.attempts


STEPS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(list(Channel)), st.sampled_from(WRITTEN), st.integers(0, 2), st.integers(0, 3)),
        min_size=1,
        max_size=4,
        unique_by=lambda step: step[0],
    ),
    min_size=1,
    max_size=8,
)


class Rollback(Exception):
    """Ends an example without a trace."""


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_any_sequence_of_changes_comes_to_what_the_model_says(
    rows: Rows, shared: UUID, steps: list[list[tuple[Channel, Status, int, int]]]
) -> None:
    models = {channel: Model() for channel in Channel}
    try:
        async with rows.engine.begin() as connection:
            for step in steps:
                changes = [
                    change(shared, channel, status, generation=generation, attempts=attempts)
                    for channel, status, generation, attempts in step
                ]
                await deliveries.advance(connection, changes)
                for (channel, *_), new in zip(step, changes, strict=True):
                    models[channel].write(new)
            await assert_like(connection, shared, models)
            raise Rollback
    except Rollback:
        pass


async def assert_like(connection: AsyncConnection, notification: UUID, models: dict[Channel, Model]) -> None:
    found = await connection.execute(
        text("SELECT channel, status, generation, attempts FROM notification_deliveries WHERE notification_id = :id"),
        {"id": notification},
    )
    told = {row.channel: (row.status, row.generation, row.attempts) for row in found}
    assert told == {channel: (one.status, one.generation, one.attempts) for channel, one in models.items()}
    result = await connection.execute(text("SELECT status FROM notifications WHERE id = :id"), {"id": notification})
    expected = overall([one.status for one in models.values()])
    assert PRECEDENCE[Status(result.scalar_one())] == PRECEDENCE[expected]  # siblings speak for each other


@pytest.fixture(scope="module")
async def shared(rows: Rows) -> UUID:
    """A notification on all channels; examples of the property test work on it and roll back."""
    return await rows.queued(*Channel)


def test_delivery_ids_of_a_notification_differ() -> None:
    notification = UUID(int=1)
    assert len({delivery_id(notification, channel) for channel in Channel}) == len(Channel)
