"""Claims: of all that ask for an attempt one wins, and what forbids a send is read in the same statement."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from models.deliveries import Delivery
from models.enums import Channel, Outcome, Status
from models.repositories import cancellation, deliveries
from models.repositories.deliveries import Claim
from models.settings import Settings
from streams.metrics import HOLDS
from streams.providers.base import DeliveryResult
from streams.records import Incoming, Outgoing
from tests.fixtures.lane import a_lane
from tests.fixtures.rows import Rows, attempt, change, delivery, some_rows
from tests.fixtures.service import Ledger
from tests.fixtures.stack import Databases

OVER = timedelta(seconds=-1)


@pytest.fixture(scope="module")
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated, connections=24) as made:
        yield made


async def test_the_first_wins_and_the_second_is_told_that_it_is_leased(rows: Rows) -> None:
    asked = delivery(await rows.queued())
    [won] = await rows.claim(asked)
    assert (won.won, won.takeovers) == (True, 0)
    [lost] = await rows.claim(asked)
    assert (lost.won, lost.finished, lost.forbidden) == (False, None, None)
    assert lost.is_leased


async def test_of_many_that_ask_at_once_one_wins(rows: Rows) -> None:
    asked = [delivery(await rows.queued()) for _ in range(20)]

    async def ask() -> list[Claim]:
        return await rows.claim(*random.sample(asked, len(asked)))

    answers = await asyncio.gather(*(ask() for _ in range(12)))
    won = Counter(claim.delivery_id for batch in answers for claim in batch if claim.won)
    assert won == {one.delivery_id: 1 for one in asked}


async def test_after_the_lease_one_takes_over_and_it_is_counted(rows: Rows) -> None:
    asked = delivery(await rows.queued())
    await rows.claim(asked, lease=OVER)
    for expected in (1, 2, 3):
        answers = await asyncio.gather(*(rows.claim(asked) for _ in range(8)))
        won = [claim for [claim] in answers if claim.won]
        assert [claim.takeovers for claim in won] == [expected]
        await rows.execute(
            "UPDATE delivery_logs SET lease_until = now() - interval '1 s' WHERE delivery_id = :id",
            id=asked.delivery_id,
        )
    [row] = await rows.fetch("SELECT takeovers FROM delivery_logs WHERE delivery_id = :id", id=asked.delivery_id)
    assert row.takeovers == 3


async def test_a_running_lease_is_not_taken_over(rows: Rows) -> None:
    asked = delivery(await rows.queued())
    await rows.claim(asked, lease=timedelta(seconds=0.4))
    early = await asyncio.gather(*(rows.claim(asked) for _ in range(5)))
    assert not [claim for [claim] in early if claim.won]
    await asyncio.sleep(0.5)
    late = await asyncio.gather(*(rows.claim(asked) for _ in range(5)))
    assert [claim.takeovers for [claim] in late if claim.won] == [1]


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_an_attempt_with_an_outcome_is_never_called_again(rows: Rows, outcome: Outcome) -> None:
    asked = delivery(await rows.queued())
    await rows.claim(asked, lease=OVER)
    done = attempt(asked, outcome, reason="busy", retry_at=datetime.now(UTC) + timedelta(hours=1))
    await rows.finish(done)
    for answers in await asyncio.gather(*(rows.claim(asked) for _ in range(5))):
        [claim] = answers
        assert (claim.won, claim.forbidden, claim.finished) == (False, None, done)


async def test_the_first_outcome_stays(rows: Rows) -> None:
    asked = delivery(await rows.queued())
    await rows.claim(asked)
    await rows.finish(attempt(asked, Outcome.SENT))
    await rows.finish(attempt(asked, Outcome.RETRY))
    [claim] = await rows.claim(asked)
    assert claim.finished is not None
    assert claim.finished.outcome is Outcome.SENT


async def test_each_attempt_and_generation_is_claimed_for_itself(rows: Rows) -> None:
    notification = await rows.queued()
    first, second = delivery(notification), delivery(notification, attempt=2)
    assert [claim.won for claim in await rows.claim(first, second)] == [True, True]
    await rows.advance(change(notification, Channel.EMAIL, Status.FAILED))
    assert [claim.forbidden for claim in await rows.claim(delivery(notification, attempt=3))] == ["failed"]
    [replayed] = await rows.claim(delivery(notification, generation=1))
    assert replayed.won


async def test_one_answer_for_each_that_is_asked(rows: Rows) -> None:
    known = [delivery(await rows.queued()) for _ in range(50)]
    unknown = [delivery(uuid.uuid4()) for _ in range(10)]
    answers = await rows.claim(*known, *unknown)
    assert [claim.won for claim in answers] == [True] * 60


async def forbidden(rows: Rows, notification: UUID, **fields: Any) -> str | None:
    [claim] = await rows.claim(delivery(notification, **fields))
    logs = await rows.fetch(
        "SELECT 1 FROM delivery_logs WHERE delivery_id = :id", id=delivery(notification).delivery_id
    )
    assert claim.won is bool(logs), "a forbidden attempt leaves no claim behind"
    return claim.forbidden


async def test_cancelled(rows: Rows) -> None:
    notification = await rows.queued()
    async with rows.engine.begin() as connection:
        await cancellation.cancel(connection, notification, client="tests")
    assert await forbidden(rows, notification) == "cancelled"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (Status.SENT, "already_sent"),
        (Status.DELIVERED, "already_sent"),
        (Status.CLICKED, "already_sent"),
        (Status.BOUNCED, "already_sent"),
        (Status.FAILED, "failed"),
        (Status.SUPPRESSED, "suppressed"),
        (Status.EXPIRED, "expired"),
        (Status.RETRYING, None),
        (Status.THROTTLED, None),
    ],
)
async def test_ended_in_this_generation(rows: Rows, status: Status, reason: str | None) -> None:
    notification = await rows.queued()
    await rows.advance(change(notification, Channel.EMAIL, status, attempts=1))
    assert await forbidden(rows, notification) == reason


async def test_superseded_by_a_replay(rows: Rows) -> None:
    notification = await rows.queued()
    await rows.advance(change(notification, Channel.EMAIL, Status.QUEUED, generation=2))
    assert await forbidden(rows, notification, generation=1) == "superseded"
    [claim] = await rows.claim(delivery(notification, generation=2))
    assert claim.won


async def test_past_its_time(rows: Rows) -> None:
    now = datetime.now(UTC)
    assert await forbidden(rows, await rows.queued(), expires_at=now - timedelta(seconds=1)) == "expired"
    assert await forbidden(rows, await rows.queued(), expires_at=now + timedelta(minutes=1)) is None


async def prefer(rows: Rows, user: str, channels: str = "{}", categories: str = "{}") -> None:
    await rows.execute(
        "INSERT INTO notification_preferences (user_id, channels, categories, updated_at)"
        " VALUES (:user, CAST(:channels AS jsonb), CAST(:categories AS jsonb), now())",
        user=user,
        channels=channels,
        categories=categories,
    )


@pytest.mark.parametrize(
    ("channels", "categories", "reason"),
    [
        ('{"email": false}', "{}", "opted_out"),
        ('{"sms": false}', "{}", None),
        ("{}", '{"general": {"email": false}}', "opted_out"),
        ("{}", '{"other": {"email": false}}', None),
        ('{"email": false}', '{"general": {"email": true}}', None),
        ('{"email": true}', '{"general": {"email": false}}', "opted_out"),
        ('{"email": false}', '{"general": {"sms": true}}', "opted_out"),
    ],
)
async def test_opted_out(rows: Rows, channels: str, categories: str, reason: str | None) -> None:
    user = f"u-{uuid.uuid4().hex}"
    await prefer(rows, user, channels, categories)
    assert await forbidden(rows, await rows.queued(), user_id=user) == reason


async def unsubscribe(
    rows: Rows, address: str, category: str = "", channel: str = "email", reason: str = "unsubscribed"
) -> None:
    await rows.execute(
        "INSERT INTO unsubscribe_lists (channel, address, category, reason, created_at)"
        " VALUES (:channel, :address, :category, :reason, now())",
        channel=channel,
        address=address,
        category=category,
        reason=reason,
    )


@pytest.mark.parametrize(
    ("category", "channel", "reason"),
    [("", "email", "unsubscribed"), ("general", "email", "unsubscribed"), ("news", "email", None), ("", "sms", None)],
)
async def test_unsubscribed(rows: Rows, category: str, channel: str, reason: str | None) -> None:
    address = f"{uuid.uuid4().hex}@example.com"
    await unsubscribe(rows, address, category, channel)
    assert await forbidden(rows, await rows.queued(), to=address) == reason


async def test_a_transactional_category_is_exempt_but_not_from_its_end(rows: Rows) -> None:
    await rows.execute(
        "INSERT INTO notification_categories"
        " (key, transactional, default_channels, priority, quiet_hours, created_at, updated_at)"
        " VALUES ('receipts', true, '[]', NULL, 'ignore', now(), now())"
    )
    user, address = f"u-{uuid.uuid4().hex}", f"{uuid.uuid4().hex}@example.com"
    await prefer(rows, user, '{"email": false}')
    await unsubscribe(rows, address)
    fields = {"category": "receipts", "user_id": user, "to": address}
    assert await forbidden(rows, await rows.queued(), **fields) is None
    over = {**fields, "expires_at": datetime.now(UTC) - timedelta(seconds=1)}
    assert await forbidden(rows, await rows.queued(), **over) == "expired"
    for reason in ("opted_out", "manual", "complained", "bounced"):
        await unsubscribe(rows, address, reason=reason)
        assert await forbidden(rows, await rows.queued(), **fields) == reason, "the first by name is told"


async def test_lists_know_no_case(rows: Rows) -> None:
    address = f"{uuid.uuid4().hex}@example.com"
    await unsubscribe(rows, address)
    assert await forbidden(rows, await rows.queued(), to=address.upper()) == "unsubscribed"


async def pause(rows: Rows, category: str, *, resumed: bool = False) -> None:
    await rows.execute(
        "INSERT INTO category_pauses (category, channel, paused_at, sent, bounced, resumed_at)"
        " VALUES (:category, 'email', now(), 1000, 100, CASE WHEN :resumed THEN now() END)",
        category=category,
        resumed=resumed,
    )


async def claim_bulk(rows: Rows, *asked: Delivery) -> list[str | None]:
    async with rows.engine.begin() as connection:
        answers = await deliveries.claim(connection, asked, lease=timedelta(seconds=30), is_bulk=True)
    return [answers[one.delivery_id, one.generation, one.attempt].forbidden for one in asked]


async def test_a_pause_holds_back_only_the_bulk_of_its_category_and_channel(rows: Rows) -> None:
    await pause(rows, "news")
    await pause(rows, "tips", resumed=True)
    held = delivery(await rows.queued(category="news"), category="news")
    text = delivery(await rows.queued(Channel.SMS, category="news"), Channel.SMS, category="news", to="+15005550006")
    other = delivery(await rows.queued(category="tips"), category="tips")
    assert await claim_bulk(rows, held, text, other) == ["paused", None, None]
    assert not await rows.fetch("SELECT 1 FROM delivery_logs WHERE delivery_id = :id", id=held.delivery_id)
    [claimed] = await rows.claim(held)
    assert claimed.won, "what is not bulk goes out"


async def test_what_ends_a_delivery_goes_before_a_pause(rows: Rows) -> None:
    await pause(rows, "deals")
    over = delivery(await rows.queued(category="deals"), category="deals", expires_at=datetime.now(UTC))
    address = f"{uuid.uuid4().hex}@example.com"
    await unsubscribe(rows, address)
    gone = delivery(await rows.queued(category="deals"), category="deals", to=address)
    assert await claim_bulk(rows, over, gone) == ["expired", "unsubscribed"]


async def test_cancel_or_claim_exactly_one_wins(rows: Rows) -> None:
    """Many rounds, both at once on connections of their own, which goes first by chance."""
    won: Counter[str] = Counter()
    for round_ in range(150):
        notification = await rows.queued(Channel.EMAIL, Channel.SMS)
        asked = [delivery(notification), delivery(notification, Channel.SMS)]

        async def claims(asked: list[Delivery] = asked, late: bool = round_ % 3 == 0) -> int:
            await asyncio.sleep(random.random() / 500 if late else 0)
            return sum(claim.won for claim in await rows.claim(*asked))

        async def cancels(notification: UUID = notification, late: bool = round_ % 3 == 1) -> bool:
            await asyncio.sleep(random.random() / 500 if late else 0)
            async with rows.engine.begin() as connection:
                return not (await cancellation.cancel(connection, notification, client="tests")).too_late

        claimed, cancelled = await asyncio.gather(claims(), cancels())
        assert (claimed, cancelled) in ((2, False), (0, True)), round_
        won["cancel" if cancelled else "claim"] += 1
        expected = "cancelled" if cancelled else "queued"
        assert await rows.status(notification) == expected
    assert min(won["cancel"], won["claim"]) > 5, f"the race was none: {won}"


class Nowhere:
    """Takes records and forgets them."""

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        await asyncio.sleep(0)
        return [(0, number) for number in range(len(records))]


async def test_lanes_and_cancellations_do_not_deadlock(rows: Rows) -> None:
    """Overlapping batches in any order, in as many lanes as there could be at worst, and cancellations between."""
    notifications = [await rows.queued(Channel.EMAIL, Channel.SMS) for _ in range(30)]
    settings = Settings(database_url="postgresql://none/none", provider_timeout_seconds=1)
    busy = Ledger(answer=lambda _: DeliveryResult(outcome=Outcome.RETRY, provider="ledger", reason="busy"))

    async def lane(seed: int) -> None:
        dice = random.Random(seed)
        channel = dice.choice((Channel.EMAIL, Channel.SMS))
        async with a_lane(rows.engine, Nowhere(), busy, settings=settings, channel=channel) as running:
            for number in range(1, 13):
                some = [delivery(one, channel, attempt=number) for one in dice.sample(notifications, 15)]
                records = [
                    Incoming("", 0, seed, 0, b"%d" % place, one.record_value()) for place, one in enumerate(some)
                ]
                await running.work(records)
                if number % 4 == 0:
                    async with rows.engine.begin() as connection:
                        await cancellation.cancel(connection, dice.choice(notifications), client="tests")

    held = [HOLDS.labels(f"send-{channel}-normal") for channel in (Channel.EMAIL, Channel.SMS)]
    before = [counter._value.get() for counter in held]
    async with asyncio.timeout(60):
        await asyncio.gather(*(lane(seed) for seed in range(10)))
    assert [counter._value.get() for counter in held] == before, "a lane met a deadlock and began again"
